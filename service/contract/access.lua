-- Every change of an API key: transitions[ARGV[1]](decoded ARGV[2]) -> JSON. Joined with record_base.lua,
-- whose clock and keys it uses. Any transition may be repeated by a client whose answer got lost.
--
-- key:{id}          a key: tenant, hash, scopes, label, created, used
-- keys:{tenant}     ids of the tenant's keys
-- tenants           tenants that ever had a key

local transitions = {}

local function shown(id)
  local f = redis.call('HMGET', key('key', id), 'tenant', 'hash', 'scopes', 'label', 'created', 'used')
  if not f[1] then return nil end
  return { id = id, tenant = f[1], hash = f[2], scopes = f[3], label = f[4], created = tonumber(f[5]),
    used = tonumber(f[6]) or 0 }
end

function transitions.create(a)
  local of_tenant = key('keys', a.tenant)
  if redis.call('EXISTS', key('key', a.id)) == 0 then
    if redis.call('SCARD', of_tenant) >= a.most then return { full = true } end
    redis.call('HSET', key('key', a.id), 'tenant', a.tenant, 'hash', a.hash, 'scopes', a.scopes,
      'label', a.label, 'created', now)
    redis.call('SADD', of_tenant, a.id)
    redis.call('SADD', key('tenants'), a.tenant)
  end
  return { key = shown(a.id) }
end

function transitions.list(a)
  local found = {}
  local tenants = a.tenant and { a.tenant } or redis.call('SMEMBERS', key('tenants'))
  for _, tenant in ipairs(tenants) do
    for _, id in ipairs(redis.call('SMEMBERS', key('keys', tenant))) do found[#found + 1] = shown(id) end
  end
  return { keys = found }
end

function transitions.revoke(a)
  local tenant = redis.call('HGET', key('key', a.id), 'tenant')
  if not tenant then return { revoked = false } end
  redis.call('DEL', key('key', a.id))
  redis.call('SREM', key('keys', tenant), a.id)
  return { revoked = true }
end

function transitions.find(a)
  return { key = shown(a.id), now = now }
end

function transitions.used(a)
  if redis.call('EXISTS', key('key', a.id)) == 1 then redis.call('HSET', key('key', a.id), 'used', now) end
  return {}
end

return cjson.encode(transitions[ARGV[1]](cjson.decode(ARGV[2])))
