-- What webhooks still have to say. A delivery is written in the very step that emits its event, so none is
-- lost, whatever crashes; it is sent, again and again if need be, by whichever gateway claims it (outbox.lua).
--
-- hooks:{tenant}             endpoints of a tenant by id, as JSON: id, url, events, created, disabled
-- job:{id} webhook           the endpoint that came with a job, as JSON: url, events
-- delivery:{id}              one message to one endpoint; state: waiting, delivered or failed
-- job:{id}:deliveries        ids of a job's deliveries, in order
-- outbox:{tenant}            deliveries that wait, by when they are due; while one is being sent, by the end of
--                            the lease, so that one whose sender died is due again
-- outbox:{tenant}:flying     deliveries that are being sent, by the end of the lease
-- outbox                     tenants that have deliveries waiting, by when the first is due

local TOLD = { queued = true, started = true, ['section.completed'] = true, completed = true, failed = true,
  cancelled = true }
local MOST_WAITING = 10000         -- deliveries of one tenant; an endpoint that is dead must not fill the server
local DELIVERIES_KEPT = 30 * DAY   -- for the log, after the last attempt

local function delivery_key(id) return key('delivery', id) end
local function box_of(tenant) return key('outbox', tenant) end

-- Keep the list of tenants right after a change of a tenant's box.
function outbox.schedule(tenant)
  local first = redis.call('ZRANGE', box_of(tenant), 0, 0, 'WITHSCORES')
  if first[1] then
    redis.call('ZADD', key('outbox'), first[2], tenant)
  else
    redis.call('ZREM', key('outbox'), tenant)
  end
end

-- Whether an endpoint, as JSON, is told of an event; what cannot be read is told nothing.
local function told(endpoint, event)
  local ok, found = pcall(cjson.decode, endpoint)
  if not ok or type(found) ~= 'table' or found.disabled then return nil end
  for _, name in ipairs(found.events or {}) do
    if name == event then return found end
  end
end

local function put(id, sequence, event, data, endpoint)
  local tenant, hook = get(id, 'tenant'), endpoint.id or 'job'
  local delivery = 'msg_' .. id .. '_' .. sequence .. '_' .. hook
  local full = redis.call('ZCARD', box_of(tenant)) >= MOST_WAITING
  redis.call('HSET', delivery_key(delivery), 'tenant', tenant, 'job', id, 'hook', hook, 'url', endpoint.url,
    'event', event, 'sequence', sequence, 'at', now, 'data', data, 'tries', 0, 'attempt', 0,
    'state', full and 'failed' or 'waiting', 'metadata', get(id, 'metadata') or '{}')
  redis.call('RPUSH', key('job', id, 'deliveries'), delivery)
  redis.call('PEXPIRE', key('job', id, 'deliveries'), DELIVERIES_KEPT)
  if full then
    redis.call('PEXPIRE', delivery_key(delivery), DELIVERIES_KEPT)
  else
    redis.call('ZADD', box_of(tenant), now, delivery)
    outbox.schedule(tenant)
  end
end

function outbox.post(id, sequence, kind, data)
  local tenant = TOLD[kind] and get(id, 'tenant')
  if not tenant then return end
  local event, own = 'job.' .. kind, get(id, 'webhook')
  local endpoints = redis.call('HVALS', key('hooks', tenant))
  if own then endpoints[#endpoints + 1] = own end
  for _, endpoint in ipairs(endpoints) do
    local found = told(endpoint, event)
    if found then put(id, sequence, event, data, found) end
  end
end
