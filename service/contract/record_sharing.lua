-- Who gets the next task: what can be done now, and whose turn it is.
--
-- pools:{lane}:{class}                   pools that have waiting jobs
-- active:{lane}:{class}:{pool}           tenants with such jobs, by virtual time
-- ready:{lane}:{class}:{tenant}:{pool}   their jobs, by order of submission
-- served:{lane}:{class}                  virtual time by tenant: the work it was given, in costs
-- clock:{lane}                           by class, the virtual time at which the latest task began
--
-- A pool is what a worker must offer: "{preset} {engine fingerprint} {version}", "-" for a lane that is
-- not pinned yet. Classes are apart: the higher goes first, and has its own accounts.

local CREDIT = 4  -- sections a tenant that did not wait may be owed

-- What a lane can do next ----------------------------------------------------------------------------

local function claimable(id, lane)
  local sections = num(id, 'sections')
  local render, deliver = num(id, 'render.next'), num(id, 'deliver.next')
  if lane == 'render' then
    return render <= sections and render - 1 - deliver < num(id, 'ahead')
  end
  if deliver < sections then return render >= deliver + 2 end
  return deliver == sections and render == sections + 1
end

local function pool_name(preset, fingerprint, version)
  return preset .. ' ' .. fingerprint .. ' ' .. version
end

local function pool_of(id, lane)
  return pool_name(get(id, 'preset'), get(id, lane .. '.fingerprint') or '-', get(id, 'version'))
end

-- Virtual time: start-time fair queueing -------------------------------------------------------------

local function virtual_time(lane, class, tenant)
  return tonumber(redis.call('HGET', key('served', lane, class), tenant)) or 0
end

local function clock(lane, class)
  return tonumber(redis.call('HGET', key('clock', lane), class)) or 0
end

local function set_virtual_time(lane, class, tenant, served)
  redis.call('HSET', key('served', lane, class), tenant, served)
  for _, pool in ipairs(redis.call('SMEMBERS', key('pools', lane, class))) do
    redis.call('ZADD', key('active', lane, class, pool), 'XX', served, tenant)
  end
end

-- Whoever comes to wait starts at the clock, so that idleness earns next to nothing: neither the
-- tenant that comes late nor the one whose other job waits for an engine that is gone. Not quite at
-- the clock: a lane that had to wait for the other lane would lose what it is owed each time.
local function catch_up(lane, class, tenant, cost)
  local least = clock(lane, class) - CREDIT * cost
  if least > virtual_time(lane, class, tenant) then set_virtual_time(lane, class, tenant, least) end
end

local function charge(lane, class, tenant, cost)
  local start = virtual_time(lane, class, tenant)
  if start > clock(lane, class) then redis.call('HSET', key('clock', lane), class, start) end
  set_virtual_time(lane, class, tenant, start + cost)
end

-- Waiting --------------------------------------------------------------------------------------------

local function forget_active(lane, class, pool, tenant)
  local active = key('active', lane, class, pool)
  redis.call('ZREM', active, tenant)
  if redis.call('EXISTS', active) == 0 then redis.call('SREM', key('pools', lane, class), pool) end
end

local function forget_ready(lane, class, pool, tenant, id)
  local ready = key('ready', lane, class, tenant, pool)
  redis.call('ZREM', ready, id)
  if redis.call('EXISTS', ready) == 0 then forget_active(lane, class, pool, tenant) end
end

local function take_ready(id, lane)
  local pool = get(id, lane .. '.ready')
  if not pool then return end
  redis.call('HDEL', job_key(id), lane .. '.ready')
  forget_ready(lane, get(id, 'priority') or '', pool, get(id, 'tenant') or '', id)
end

-- Repeatable: a job that waits where it belongs keeps its place, one that fell out is put back.
local function put_ready(id, lane)
  local class, tenant, pool = get(id, 'priority'), get(id, 'tenant'), pool_of(id, lane)
  local ready = key('ready', lane, class, tenant, pool)
  if get(id, lane .. '.ready') ~= pool or not redis.call('ZSCORE', ready, id) then
    take_ready(id, lane)
    catch_up(lane, class, tenant, num(id, 'cost'))
    set(id, lane .. '.ready', pool)
    redis.call('ZADD', ready, num(id, 'order'), id)
  end
  redis.call('SADD', key('pools', lane, class), pool)
  redis.call('ZADD', key('active', lane, class, pool), virtual_time(lane, class, tenant), tenant)
end

-- Put each lane of a job where it belongs now; returns the lanes that have work for somebody.
local function refresh(id)
  local ring, status = {}, get(id, 'status')
  for _, lane in ipairs(LANES) do
    local free = num(id, lane .. '.lease') == 0
    local wanted = (status == 'queued' or status == 'running') and free and claimable(id, lane)
    local delayed = wanted and num(id, lane .. '.after') > now
    if delayed then
      redis.call('ZADD', key('delayed'), num(id, lane .. '.after'), id .. ' ' .. lane)
    else
      redis.call('ZREM', key('delayed'), id .. ' ' .. lane)
    end
    if wanted and not delayed then
      put_ready(id, lane)
      ring[#ring + 1] = { lane, get(id, 'preset') }
    else
      take_ready(id, lane)
    end
  end
  return ring
end

-- Choosing -------------------------------------------------------------------------------------------

-- The first job of a tenant in a pool. What cannot be worked with is taken out of the way.
local function first_job(lane, class, pool, tenant, condemn)
  while true do
    local found = redis.call('ZRANGE', key('ready', lane, class, tenant, pool), 0, 0)[1]
    if not found then return nil end
    if sound(found) and not terminal(get(found, 'status')) then return found end
    condemn(found)
    forget_ready(lane, class, pool, tenant, found)
  end
end

-- The waiting job of a pool whose tenant was served least, with that tenant's virtual time.
local function first_of_pool(lane, class, pool, condemn)
  local active = key('active', lane, class, pool)
  local tenants = redis.call('ZRANGE', active, 0, SCAN - 1, 'WITHSCORES')
  for i = 1, #tenants, 2 do
    local id = first_job(lane, class, pool, tenants[i], condemn)
    if id then return id, tonumber(tenants[i + 1]) end
    forget_active(lane, class, pool, tenants[i])
  end
end

-- Whose turn it is in a class among the pools a worker can serve; ties go to the earlier job.
local function best_of_class(lane, class, workable, version, condemn)
  local best, best_time, best_order
  for preset, fingerprint in pairs(workable) do
    for _, pinned in ipairs({ '-', fingerprint }) do
      for known = 1, version do
        local id, served = first_of_pool(lane, class, pool_name(preset, pinned, known), condemn)
        local order = id and num(id, 'order')
        if id and (not best or served < best_time or (served == best_time and order < best_order)) then
          best, best_time, best_order = id, served, order
        end
      end
    end
  end
  return best
end

-- How many jobs of a pool of the same class go before the one at `place` of its own tenant.
local function ahead_in_pool(class, pool, tenant, place, order)
  local before, own = 0, virtual_time('render', class, tenant)
  local tenants = redis.call('ZRANGE', key('active', 'render', class, pool), 0, -1, 'WITHSCORES')
  for i = 1, #tenants, 2 do
    if tenants[i] ~= tenant then
      local ready, served = key('ready', 'render', class, tenants[i], pool), tonumber(tenants[i + 1])
      local first = tonumber(redis.call('ZRANGE', ready, 0, 0, 'WITHSCORES')[2]) or 0
      local leads = served < own or (served == own and first < order)
      before = before + math.min(redis.call('ZCARD', ready), leads and place + 1 or place)
    end
  end
  return before
end

local function size_of_pool(class, pool)
  local size = 0
  for _, tenant in ipairs(redis.call('ZRANGE', key('active', 'render', class, pool), 0, -1)) do
    size = size + redis.call('ZCARD', key('ready', 'render', class, tenant, pool))
  end
  return size
end

-- How many jobs will be begun before this one if nothing else arrives, counted round by round.
local function jobs_before(id)
  local own, pool, tenant = get(id, 'priority'), get(id, 'render.ready'), get(id, 'tenant')
  local order = num(id, 'order')
  local place = redis.call('ZRANK', key('ready', 'render', own, tenant, pool), id) or 0
  local before = place
  for _, class in ipairs(CLASSES) do
    for _, other in ipairs(redis.call('SMEMBERS', key('pools', 'render', class))) do
      before = before + (class == own and ahead_in_pool(class, other, tenant, place, order)
        or class ~= own and size_of_pool(class, other) or 0)
    end
    if class == own then return before end
  end
end
