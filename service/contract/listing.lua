-- The jobs of a tenant, newest first, and their end by request: transitions[ARGV[1]](decoded ARGV[2]) -> JSON.
-- Joined with record_base.lua; a submission notes its job in record.lua.
--
-- listed:{tenant}               ids of its jobs by the number in which they were accepted

local transitions = {}

local LOOKED_AT = 500              -- jobs that one page may look through for those that were asked for

local function listed_key(tenant) return key('listed', tenant) end

-- Whether a job has all the metadata asked for; what cannot be read has none.
local function labelled(id, asked)
  if not asked then return true end
  local ok, own = pcall(cjson.decode, get(id, 'metadata') or '')
  if not ok or type(own) ~= 'table' then return false end
  for name, value in pairs(asked) do
    if own[name] ~= value then return false end
  end
  return true
end

-- Jobs that have expired leave the list when a page comes across them.
function transitions.page(a)
  local command, from, to = 'ZREVRANGEBYSCORE', a.after and '(' .. a.after or '+inf', '-inf'
  if a.ascending then command, from, to = 'ZRANGEBYSCORE', a.after and '(' .. a.after or '-inf', '+inf' end
  local found = redis.call(command, listed_key(a.tenant), from, to, 'WITHSCORES', 'LIMIT', 0, LOOKED_AT)
  local wanted, ids, last = {}, {}, nil
  for _, status in ipairs(a.statuses or {}) do wanted[status] = true end
  for index = 1, #found, 2 do
    local id, status = found[index], get(found[index], 'status')
    if not status then
      redis.call('ZREM', listed_key(a.tenant), id)
    elseif (not a.statuses or wanted[status]) and labelled(id, a.metadata) then
      if #ids == a.limit then return { ids = ids, after = last } end
      ids[#ids + 1] = id
    end
    last = found[index + 1]
  end
  return { ids = ids, after = #found == 2 * LOOKED_AT and last or nil }
end

function transitions.place(a)
  local order = redis.call('ZSCORE', listed_key(a.tenant), a.id)
  return { order = order or nil }
end

-- Only a job that has ended: nobody works on it, and nothing counts it as open.
function transitions.delete(a)
  local status = get(a.id, 'status')
  if not status then return { missing = true } end
  if not terminal(status) then return { conflict = status } end
  redis.call('ZREM', listed_key(get(a.id, 'tenant') or ''), a.id)
  redis.call('ZREM', key('expiring'), a.id)
  redis.call('DEL', job_key(a.id), key('job', a.id, 'events'), key('job', a.id, 'preview'), key('gone', a.id))
  return { deleted = true }
end

return cjson.encode(transitions[ARGV[1]](cjson.decode(ARGV[2])))
