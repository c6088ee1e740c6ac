-- What is stored and no longer needed: transitions[ARGV[1]](decoded ARGV[2]) -> JSON. Joined with record_base.lua
-- and record_keeping.lua, which describes the keys.

local transitions = {}

-- A picture is about to be stored for a job that is not accepted yet.
function transitions.announce(a)
  redis.call('ZADD', key('uploads'), now, a.id)
  return {}
end

local function expire(id)
  redis.call('ZREM', key('expiring'), id)
  local tenant = redis.call('GET', key('gone', id))
  if tenant then redis.call('ZREM', key('listed', tenant), id) end
  redis.call('DEL', job_key(id), key('job', id, 'events'), key('job', id, 'preview'))
  redis.call('ZADD', key('removing'), now, 'expired ' .. id)
end

local function abandon(id)
  redis.call('ZREM', key('uploads'), id)
  if not exists(id) then redis.call('ZADD', key('removing'), now, 'upload ' .. id) end
end

-- Whose objects are to be deleted: decided here, once, and kept until somebody says that it was done.
function transitions.due(a)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('expiring'), '-inf', now, 'LIMIT', 0, a.limit)) do
    expire(id)
  end
  local begun = now - a.age
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('uploads'), '-inf', begun, 'LIMIT', 0, a.limit)) do
    abandon(id)
  end
  local found = {}
  for _, member in ipairs(redis.call('ZRANGE', key('removing'), 0, a.limit - 1)) do
    local reason, id = member:match('^(%S+) (%S+)$')
    if id then found[#found + 1] = { id, reason } end
  end
  return { removals = found }
end

function transitions.removed(a)
  redis.call('ZREM', key('removing'), a.reason .. ' ' .. a.id)
  return {}
end

-- Which of these ids nothing here knows of.
function transitions.strangers(a)
  local found = {}
  for _, id in ipairs(a.ids) do
    local known = exists(id) or redis.call('ZSCORE', key('uploads'), id) or redis.call('ZSCORE', key('expiring'), id)
    for _, reason in ipairs({ 'expired', 'upload' }) do
      known = known or redis.call('ZSCORE', key('removing'), reason .. ' ' .. id)
    end
    if not known then found[#found + 1] = id end
  end
  return { ids = found }
end

-- What tells this record from every other, for as long as it is not emptied.
function transitions.identity(a)
  redis.call('SET', key('identity'), a.fresh, 'NX')
  return { identity = redis.call('GET', key('identity')) }
end

return cjson.encode(transitions[ARGV[1]](cjson.decode(ARGV[2])))
