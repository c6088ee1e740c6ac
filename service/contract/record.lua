-- Every transition of a job record, as one script: transitions[ARGV[1]](decoded ARGV[2]) -> JSON.
--
-- The record is a hash, its history a stream, and both change only here, in one step, on this server's
-- clock. Every transition may be repeated by a client whose answer got lost: it then changes nothing
-- and gives the same answer. Keys are computed, so this needs a single server, not a cluster.
--
-- job:{id}                      the record; fields of a lane start with its name
-- job:{id}:events               its events, ids 1-0, 2-0, ...
-- events                        the latest events of all jobs, for readers that follow many
-- ready:{lane}:{pool}:{class}:{tenant}   jobs with a claimable task, by order of submission
-- active:{lane}:{pool}:{class}  tenants with such jobs, by work received (virtual time)
-- pools:{lane}                  the "{pool}:{class}" that have active tenants
-- leases, delayed               "{id} {lane}" by expiry, by end of a back-off
--
-- A pool is what a worker must offer: "{preset} {engine fingerprint}", "-" for a job not pinned yet.

local P = 'framepack:'
local CLASSES = { 'high', 'normal', 'low' }
local LANES = { 'render', 'deliver' }
local SCAN = 16            -- jobs and tenants looked at where the first does not fit
local CREDIT = 4           -- sections a tenant may be owed
local FIREHOSE = 10000     -- events kept for readers that follow many jobs
local STEP_INTERVAL = 500  -- milliseconds between published steps of a job

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function key(...) return P .. table.concat({ ... }, ':') end
local function job_key(id) return key('job', id) end
local function get(id, field) return redis.call('HGET', job_key(id), field) end
local function num(id, field) return tonumber(get(id, field)) or 0 end
local function set(id, ...) redis.call('HSET', job_key(id), ...) end

local function emit(id, kind, data)
  local sequence = redis.call('HINCRBY', job_key(id), 'sequence', 1)
  data = data or '{}'
  if type(data) == 'table' then data = cjson.encode(data) end
  redis.call('XADD', key('job', id, 'events'), sequence .. '-0', 'type', kind, 'at', now, 'data', data)
  redis.call('XADD', key('events'), 'MAXLEN', '~', FIREHOSE, '*',
    'job', id, 'sequence', sequence, 'type', kind, 'at', now, 'data', data)
end

local function terminal(status)
  return status == 'completed' or status == 'failed' or status == 'cancelled'
end

-- What a lane can do next -------------------------------------------------------------------------

local function claimable(id, lane)
  local sections = num(id, 'sections')
  local render, deliver = num(id, 'render.next'), num(id, 'deliver.next')
  if lane == 'render' then
    return render <= sections and render - 1 - deliver < num(id, 'ahead')
  end
  if deliver < sections then return render >= deliver + 2 end
  return deliver == sections and render == sections + 1
end

local function pool_of(id, lane)
  local pinned = get(id, lane .. '.fingerprint')
  return get(id, 'preset') .. ' ' .. (pinned or '-')
end

-- Fair sharing: least served tenant first, start-time fair -----------------------------------------

local function virtual_time(lane, tenant)
  return tonumber(redis.call('HGET', key('served', lane), tenant)) or 0
end

local function is_active(lane, tenant)
  for _, combo in ipairs(redis.call('SMEMBERS', key('pools', lane))) do
    if redis.call('ZSCORE', key('active', lane, combo), tenant) then return true end
  end
  return false
end

-- A tenant that comes back starts almost level with the least served one that waits, so idleness
-- earns next to nothing. Not quite level: whoever's only job is in work does not wait, and would
-- lose what it is owed each time it comes back for the next section.
local function catch_up(lane, tenant, cost)
  local floor
  for _, combo in ipairs(redis.call('SMEMBERS', key('pools', lane))) do
    local least = redis.call('ZRANGE', key('active', lane, combo), 0, 0, 'WITHSCORES')
    if least[2] and (not floor or tonumber(least[2]) < floor) then floor = tonumber(least[2]) end
  end
  if floor and floor - CREDIT * cost > virtual_time(lane, tenant) then
    redis.call('HSET', key('served', lane), tenant, floor - CREDIT * cost)
  end
end

local function charge(lane, tenant, cost)
  local served = redis.call('HINCRBYFLOAT', key('served', lane), tenant, cost)
  for _, combo in ipairs(redis.call('SMEMBERS', key('pools', lane))) do
    redis.call('ZADD', key('active', lane, combo), 'XX', served, tenant)
  end
end

-- A job that waits where it belongs stays untouched, so that its tenant keeps its place.
local function put_ready(id, lane)
  local tenant, combo = get(id, 'tenant'), pool_of(id, lane) .. ':' .. get(id, 'priority')
  if get(id, lane .. '.ready') == combo then return end
  if not is_active(lane, tenant) then catch_up(lane, tenant, num(id, 'cost')) end
  set(id, lane .. '.ready', combo)
  redis.call('SADD', key('pools', lane), combo)
  redis.call('ZADD', key('active', lane, combo), virtual_time(lane, tenant), tenant)
  redis.call('ZADD', key('ready', lane, combo, tenant), num(id, 'order'), id)
end

local function forget_ready(id, lane, combo, tenant)
  redis.call('ZREM', key('ready', lane, combo, tenant), id)
  if redis.call('EXISTS', key('ready', lane, combo, tenant)) == 0 then
    redis.call('ZREM', key('active', lane, combo), tenant)
    if redis.call('EXISTS', key('active', lane, combo)) == 0 then
      redis.call('SREM', key('pools', lane), combo)
    end
  end
end

local function take_ready(id, lane)
  local combo = get(id, lane .. '.ready')
  if not combo then return end
  redis.call('HDEL', job_key(id), lane .. '.ready')
  forget_ready(id, lane, combo, get(id, 'tenant'))
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

-- Leases ---------------------------------------------------------------------------------------------

local function leased(id)
  return num(id, 'render.lease') > 0 or num(id, 'deliver.lease') > 0
end

local function drop_lease(id, lane)
  set(id, lane .. '.lease', 0)
  redis.call('ZREM', key('leases'), id .. ' ' .. lane)
end

-- A lane is pinned to the engine that began it, unless nothing it made is part of the job yet.
local function give_up(id, lane)
  drop_lease(id, lane)
  if num(id, lane .. '.next') == 0 then redis.call('HDEL', job_key(id), lane .. '.fingerprint') end
end

local function holds(id, lane, fence)
  return num(id, lane .. '.lease') > 0 and num(id, lane .. '.fence') == fence
    and not terminal(get(id, 'status'))
end

local function signal(id)
  local status = get(id, 'status')
  if status == 'cancelling' then return 'cancel' end
  if status == 'paused' then return 'pause' end
  return 'continue'
end

-- Ends -----------------------------------------------------------------------------------------------

local function finish(id, status, data)
  for _, lane in ipairs(LANES) do drop_lease(id, lane) end
  set(id, 'status', status, 'finished', now)
  refresh(id)
  redis.call('SREM', key('open'), id)
  emit(id, status, data)
  local keep = num(id, 'retention')
  redis.call('PEXPIRE', job_key(id), keep)
  redis.call('PEXPIRE', key('job', id, 'events'), keep)
end

local function finish_cancelling(id)
  if get(id, 'status') == 'cancelling' and not leased(id) then
    finish(id, 'cancelled')
    return true
  end
  return false
end

local function fail(id, problem)
  set(id, 'error', problem)
  finish(id, 'failed', '{"error":' .. problem .. '}')
end

-- A task's attempt ended badly: again after a pause, or, at the cap, the end of the job.
local function crashed(id, lane, reason, problem, policy)
  give_up(id, lane)
  if finish_cancelling(id) then return end
  local crashes = redis.call('HINCRBY', job_key(id), lane .. '.crashes', 1)
  if crashes >= policy.max_crashes then
    fail(id, problem)
    return
  end
  local pauses = policy.backoff_ms
  local pause = pauses[math.min(crashes, #pauses)] or 0
  set(id, lane .. '.after', now + pause)
  emit(id, 'retrying', { lane = lane, task = num(id, lane .. '.next'), reason = reason,
    crashes = crashes, delay_ms = pause })
  refresh(id)
end

local function lapse(policy, limit)
  local lapsed = {}
  local expired = redis.call('ZRANGEBYSCORE', key('leases'), '-inf', now, 'LIMIT', 0, limit)
  for _, member in ipairs(expired) do
    local id, lane = member:match('^(%S+) (%S+)$')
    redis.call('ZREM', key('leases'), member)
    if id and redis.call('EXISTS', job_key(id)) == 1 and not terminal(get(id, 'status')) then
      lapsed[#lapsed + 1] = { id, lane }
      crashed(id, lane, 'worker_lost', policy.crash_problem, policy)
    end
  end
  local due = redis.call('ZRANGEBYSCORE', key('delayed'), '-inf', now, 'LIMIT', 0, limit)
  for _, member in ipairs(due) do
    redis.call('ZREM', key('delayed'), member)
    local id = member:match('^(%S+) ')
    if id and redis.call('EXISTS', job_key(id)) == 1 then refresh(id) end
  end
  return lapsed
end

-- Claiming -------------------------------------------------------------------------------------------

-- The first job of a tenant that can be handed out. Records that cannot be read by this worker stay,
-- records that are gone are forgotten.
local function first_job(lane, combo, tenant, version)
  local ready = key('ready', lane, combo, tenant)
  for _, id in ipairs(redis.call('ZRANGE', ready, 0, SCAN - 1)) do
    local written = get(id, 'version')
    if not written then
      forget_ready(id, lane, combo, tenant)
    elseif tonumber(written) <= version then
      return id
    end
  end
end

local function best_of_class(lane, class, workable, version)
  local best, best_time, best_order
  for preset, fingerprint in pairs(workable) do
    for _, pinned in ipairs({ '-', fingerprint }) do
      local combo = preset .. ' ' .. pinned .. ':' .. class
      local tenants = redis.call('ZRANGE', key('active', lane, combo), 0, SCAN - 1, 'WITHSCORES')
      for i = 1, #tenants, 2 do
        local id = first_job(lane, combo, tenants[i], version)
        if id then
          local served, order = tonumber(tenants[i + 1]), num(id, 'order')
          if not best or served < best_time or (served == best_time and order < best_order) then
            best, best_time, best_order = id, served, order
          end
          break
        end
      end
    end
  end
  return best
end

local function begin(id, lane, worker, token, fingerprint, lease_ms)
  take_ready(id, lane)
  local fence = redis.call('HINCRBY', job_key(id), lane .. '.fence', 1)
  set(id, lane .. '.lease', now + lease_ms, lane .. '.token', token, lane .. '.worker', worker)
  redis.call('ZADD', key('leases'), now + lease_ms, id .. ' ' .. lane)
  redis.call('SET', key('claim', token), id, 'PX', lease_ms)
  local number, sections = num(id, lane .. '.next'), num(id, 'sections')
  redis.call('HSETNX', job_key(id), lane .. '.fingerprint', fingerprint)
  if (lane == 'render' and number > 0) or (lane == 'deliver' and number < sections) then
    charge(lane, get(id, 'tenant'), get(id, 'cost'))
  end
  if get(id, 'status') == 'queued' then
    set(id, 'status', 'running', 'started', now)
    emit(id, 'started')
  end
  if lane == 'render' and number > 0 then
    emit(id, 'section.started', { section = number - 1, total_sections = sections })
  end
  return fence
end

local function claimed(id, lane)
  return { id = id, number = num(id, lane .. '.next'), fence = num(id, lane .. '.fence'),
    crashes = num(id, lane .. '.crashes') }
end

-- Transitions ----------------------------------------------------------------------------------------

local transitions = {}

function transitions.submit(a)
  if redis.call('EXISTS', job_key(a.id)) == 1 then
    return { created = false, ring = refresh(a.id) }
  end
  local order = redis.call('INCR', key('submitted'))
  set(a.id, 'version', a.version, 'spec', a.spec, 'tenant', a.tenant, 'preset', a.preset,
    'priority', a.priority, 'cost', a.cost, 'sections', a.sections, 'ahead', a.ahead,
    'retention', a.retention, 'order', order, 'status', 'queued', 'created', now, 'sequence', 0,
    'render.next', 0, 'render.fence', 0, 'render.lease', 0, 'render.crashes', 0,
    'deliver.next', 0, 'deliver.fence', 0, 'deliver.lease', 0, 'deliver.crashes', 0)
  redis.call('SADD', key('open'), a.id)
  emit(a.id, 'queued', { total_sections = a.sections })
  return { created = true, ring = refresh(a.id) }
end

function transitions.claim(a)
  lapse(a.policy, SCAN)
  local repeated = redis.call('GET', key('claim', a.token))
  if repeated and get(repeated, a.lane .. '.token') == a.token
    and num(repeated, a.lane .. '.lease') > 0 then
    return { task = claimed(repeated, a.lane) }
  end
  for _, class in ipairs(CLASSES) do
    local id = best_of_class(a.lane, class, a.fingerprints, a.version)
    if id then
      begin(id, a.lane, a.worker, a.token, a.fingerprints[get(id, 'preset')], a.lease_ms)
      return { task = claimed(id, a.lane) }
    end
  end
  return {}
end

function transitions.renew(a)
  if not holds(a.id, a.lane, a.fence) then return { signal = 'lost' } end
  set(a.id, a.lane .. '.lease', now + a.lease_ms)
  redis.call('ZADD', key('leases'), now + a.lease_ms, a.id .. ' ' .. a.lane)
  return { signal = signal(a.id) }
end

function transitions.step(a)
  if not holds(a.id, a.lane, a.fence) then return { signal = 'lost' } end
  local step = cjson.encode({ job_id = a.id, section = a.section, step = a.step,
    total_steps = a.total_steps, total_sections = num(a.id, 'sections') })
  set(a.id, 'step', step)
  if a.step == a.total_steps or now - num(a.id, 'step.published') >= STEP_INTERVAL then
    set(a.id, 'step.published', now)
    redis.call('PUBLISH', key('steps'), step)
  end
  return { signal = signal(a.id) }
end

function transitions.commit(a)
  local field = 'artifact:' .. a.lane .. ':' .. a.number
  if get(a.id, field) == a.artifact then return { accepted = true, ring = refresh(a.id) } end
  if not holds(a.id, a.lane, a.fence) or num(a.id, a.lane .. '.next') ~= a.number then
    return { signal = 'lost' }
  end
  drop_lease(a.id, a.lane)
  if get(a.id, 'status') == 'cancelling' then
    finish_cancelling(a.id)
    return { accepted = false, ring = refresh(a.id) }
  end
  set(a.id, field, a.artifact, a.lane .. '.next', a.number + 1, a.lane .. '.crashes', 0)
  redis.call('HDEL', job_key(a.id), a.lane .. '.after')
  local sections = num(a.id, 'sections')
  if a.lane == 'render' and a.number > 0 then
    emit(a.id, 'section.sampled', { section = a.number - 1 })
  elseif a.lane == 'deliver' and a.number < sections then
    emit(a.id, 'section.completed', '{"section":' .. a.number .. ',"clip":' .. a.artifact .. '}')
  elseif a.lane == 'deliver' then
    finish(a.id, 'completed', '{"video":' .. a.artifact .. '}')
  end
  return { accepted = true, ring = refresh(a.id) }
end

function transitions.release(a)
  if holds(a.id, a.lane, a.fence) then
    give_up(a.id, a.lane)
    finish_cancelling(a.id)
  end
  return { ring = redis.call('EXISTS', job_key(a.id)) == 1 and refresh(a.id) or {} }
end

function transitions.fail(a)
  if holds(a.id, a.lane, a.fence) then
    if a.retryable then
      crashed(a.id, a.lane, a.code, a.problem, a.policy)
    else
      drop_lease(a.id, a.lane)
      if not finish_cancelling(a.id) then fail(a.id, a.problem) end
    end
  end
  return { ring = redis.call('EXISTS', job_key(a.id)) == 1 and refresh(a.id) or {} }
end

function transitions.cancel(a)
  local status = get(a.id, 'status')
  if not status then return { missing = true } end
  if get(a.id, 'cancel.token') == a.token then return { status = status } end
  if terminal(status) then return { finished = status } end
  set(a.id, 'cancel.token', a.token)
  if status ~= 'cancelling' then
    set(a.id, 'status', 'cancelling')
    emit(a.id, 'cancelling')
    refresh(a.id)
    finish_cancelling(a.id)
  end
  return { status = get(a.id, 'status') }
end

function transitions.pause(a)
  local status = get(a.id, 'status')
  if not status then return { missing = true } end
  if terminal(status) then return { finished = status } end
  if status == 'cancelling' then return { conflict = status } end
  if status ~= 'paused' then
    set(a.id, 'status', 'paused')
    emit(a.id, 'paused')
    refresh(a.id)
  end
  return { status = 'paused' }
end

function transitions.resume(a)
  local status = get(a.id, 'status')
  if not status then return { missing = true } end
  if terminal(status) then return { finished = status } end
  if status == 'cancelling' then return { conflict = status } end
  if status == 'paused' then
    status = get(a.id, 'started') and 'running' or 'queued'
    set(a.id, 'status', status)
    emit(a.id, 'resumed', { status = status })
  end
  return { status = status, ring = refresh(a.id) }
end

function transitions.sweep(a)
  local lapsed, ring = lapse(a.policy, a.limit), {}
  for _, lane in ipairs(LANES) do
    local seen = {}
    for _, combo in ipairs(redis.call('SMEMBERS', key('pools', lane))) do
      local preset = combo:match('^(.*) %S+:%a+$')
      if not seen[preset] then
        seen[preset] = true
        ring[#ring + 1] = { lane, preset }
      end
    end
  end
  return { lapsed = lapsed, ring = ring }
end

-- How many jobs will be begun before this one if nothing else arrives, counted round by round.
function transitions.position(a)
  local combo = get(a.id, 'render.ready')
  if not combo or get(a.id, 'status') ~= 'queued' then return {} end
  local tenant, own_class = get(a.id, 'tenant'), get(a.id, 'priority')
  local own = virtual_time('render', tenant)
  local place = redis.call('ZRANK', key('ready', 'render', combo, tenant), a.id)
  local before = place
  for _, other in ipairs(redis.call('SMEMBERS', key('pools', 'render'))) do
    local class = other:match(':(%a+)$')
    local tenants = redis.call('ZRANGE', key('active', 'render', other), 0, -1, 'WITHSCORES')
    for i = 1, #tenants, 2 do
      local count = redis.call('ZCARD', key('ready', 'render', other, tenants[i]))
      if class == own_class and tenants[i] ~= tenant then
        local served = tonumber(tenants[i + 1])
        local first = redis.call('ZRANGE', key('ready', 'render', other, tenants[i]), 0, 0,
          'WITHSCORES')
        local leads = served < own
          or (served == own and tonumber(first[2]) < num(a.id, 'order'))
        local round = leads and place + 1 or place
        before = before + math.min(count, round)
      elseif class == 'high' and own_class ~= 'high' or class == 'normal' and own_class == 'low' then
        before = before + count
      end
    end
  end
  return { position = before + 1 }
end

return cjson.encode(transitions[ARGV[1]](cjson.decode(ARGV[2])))
