-- Endpoints and the sending of what waits for them: transitions[ARGV[1]](decoded ARGV[2]) -> JSON. Joined with
-- record_base.lua and record_outbox.lua, which describe the keys and write the deliveries.

local transitions = {}

local FIELDS = { 'tenant', 'job', 'hook', 'url', 'event', 'sequence', 'at', 'data', 'tries', 'attempt', 'state',
  'log', 'metadata' }

local function shown(id)
  local values, found = redis.call('HMGET', delivery_key(id), unpack(FIELDS)), { id = id }
  if not values[1] then return nil end
  for place, name in ipairs(FIELDS) do found[name] = values[place] end
  local due = redis.call('ZSCORE', box_of(found.tenant), id)
  found.due = due and tonumber(due) or nil
  return found
end

-- Endpoints ------------------------------------------------------------------------------------------

function transitions.register(a)
  local hooks = key('hooks', a.tenant)
  if redis.call('HEXISTS', hooks, a.id) == 0 and redis.call('HLEN', hooks) >= a.most then return { full = true } end
  local endpoint = { id = a.id, url = a.url, events = a.events, created = now }
  redis.call('HSETNX', hooks, a.id, cjson.encode(endpoint))
  return { endpoint = cjson.decode(redis.call('HGET', hooks, a.id)) }
end

function transitions.endpoints(a)
  local found = {}
  for _, stored in ipairs(redis.call('HVALS', key('hooks', a.tenant))) do found[#found + 1] = cjson.decode(stored) end
  return { endpoints = found }
end

function transitions.unregister(a)
  return { removed = redis.call('HDEL', key('hooks', a.tenant), a.id) == 1 }
end

-- The tenant's secret, made of `fresh` where there is none yet; `rotate` puts `fresh` in its place, and the old
-- one goes on to sign as well for a while.
function transitions.secret(a)
  local name = key('hooks', a.tenant, 'secret')
  local current = redis.call('HGET', name, 'current')
  if not current then
    redis.call('HSET', name, 'current', a.fresh)
  elseif a.rotate and current ~= a.fresh then
    redis.call('HSET', name, 'current', a.fresh, 'previous', current, 'until', now + a.overlap_ms)
  end
  local found = redis.call('HMGET', name, 'current', 'previous', 'until')
  local overlaps = found[2] and tonumber(found[3]) > now
  return { current = found[1], previous = overlaps and found[2] or nil,
    until_ms = overlaps and tonumber(found[3]) or nil }
end

local function disable(tenant, hook)
  local stored = redis.call('HGET', key('hooks', tenant), hook)
  if not stored then return end
  local endpoint = cjson.decode(stored)
  endpoint.disabled = now
  redis.call('HSET', key('hooks', tenant), hook, cjson.encode(endpoint))
end

-- Sending --------------------------------------------------------------------------------------------

local function claim_of(tenant, room, lease_ms, found)
  local box, flying = box_of(tenant), key('outbox', tenant, 'flying')
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', box, '-inf', now, 'LIMIT', 0, room)) do
    if redis.call('EXISTS', delivery_key(id)) == 1 then
      redis.call('HINCRBY', delivery_key(id), 'attempt', 1)
      redis.call('ZADD', box, now + lease_ms, id)
      redis.call('ZADD', flying, now + lease_ms, id)
      redis.call('PEXPIRE', flying, lease_ms)
      found[#found + 1] = shown(id)
    else
      redis.call('ZREM', box, id)
    end
  end
  outbox.schedule(tenant)
end

-- Take deliveries that are due, a few of each tenant: one whose endpoint hangs must not keep others waiting.
function transitions.claim(a)
  local found = {}
  for _, tenant in ipairs(redis.call('ZRANGEBYSCORE', key('outbox'), '-inf', now)) do
    local flying = key('outbox', tenant, 'flying')
    redis.call('ZREMRANGEBYSCORE', flying, '-inf', now)
    local room = math.min(a.each - redis.call('ZCARD', flying), a.limit - #found)
    if #found >= a.limit then break end
    if room > 0 then claim_of(tenant, room, a.lease_ms, found) end
  end
  return { deliveries = found }
end

-- How an attempt ended. Repeatable; whoever's lease was over in between is not heard.
function transitions.settle(a)
  local name = delivery_key(a.id)
  local values = redis.call('HMGET', name, 'tenant', 'state', 'attempt', 'log', 'hook')
  if values[2] ~= 'waiting' or tonumber(values[3]) ~= a.attempt then return { settled = false } end
  local tenant = values[1]
  local log = values[4] and cjson.decode(values[4]) or {}
  log[#log + 1] = { at = now, status = a.status, error = a.error, took_ms = a.took_ms }
  while #log > a.most_logged do table.remove(log, 1) end
  redis.call('HSET', name, 'log', cjson.encode(log))
  redis.call('HINCRBY', name, 'tries', 1)
  redis.call('HINCRBY', name, 'attempt', 1)
  redis.call('ZREM', key('outbox', tenant, 'flying'), a.id)
  if a.again_ms then
    redis.call('ZADD', box_of(tenant), now + a.again_ms, a.id)
  else
    redis.call('HSET', name, 'state', a.state)
    redis.call('PEXPIRE', name, DELIVERIES_KEPT)
    redis.call('ZREM', box_of(tenant), a.id)
  end
  if a.disable then disable(tenant, values[5]) end
  outbox.schedule(tenant)
  return { settled = true }
end

-- Send once more, from the first try on. One that waits is only made due.
function transitions.replay(a)
  local name = delivery_key(a.id)
  if redis.call('HGET', name, 'tenant') ~= a.tenant or redis.call('HGET', name, 'job') ~= a.job then return {} end
  if not redis.call('ZSCORE', key('outbox', a.tenant, 'flying'), a.id) then
    redis.call('HSET', name, 'state', 'waiting', 'tries', 0)
    redis.call('PERSIST', name)
    redis.call('ZADD', box_of(a.tenant), now, a.id)
    outbox.schedule(a.tenant)
  end
  return { delivery = shown(a.id) }
end

function transitions.of_job(a)
  local found = {}
  for _, id in ipairs(redis.call('LRANGE', key('job', a.job, 'deliveries'), 0, -1)) do
    found[#found + 1] = shown(id)
  end
  return { deliveries = found }
end

-- A job was deleted: nothing is said of it any more, nor known of what was said.
function transitions.forget(a)
  local list = key('job', a.job, 'deliveries')
  for _, id in ipairs(redis.call('LRANGE', list, 0, -1)) do
    redis.call('ZREM', box_of(a.tenant), id)
    redis.call('DEL', delivery_key(id))
  end
  redis.call('DEL', list)
  outbox.schedule(a.tenant)
  return {}
end

return cjson.encode(transitions[ARGV[1]](cjson.decode(ARGV[2])))
