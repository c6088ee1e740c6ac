-- Every transition of a job record: transitions[ARGV[1]](decoded ARGV[2]) -> JSON.
--
-- Every transition may be repeated by a client whose answer got lost: it then changes nothing and gives
-- the same answer. Readiness and turns are in record_sharing.lua, keys in record_base.lua.

-- Leases ---------------------------------------------------------------------------------------------

local function leased(id)
  return num(id, 'render.lease') > 0 or num(id, 'deliver.lease') > 0
end

-- Workers' time on a job is counted whenever a lane is left; of a lost worker's, up to the lease's end.
local function drop_lease(id, lane)
  local lease, began = num(id, lane .. '.lease'), num(id, lane .. '.began')
  if lease > 0 and began > 0 then
    redis.call('HINCRBY', job_key(id), 'worked', math.max(0, math.floor(math.min(now, lease) - began)))
  end
  set(id, lane .. '.lease', 0)
  redis.call('ZREM', key('leases'), id .. ' ' .. lane)
end

local function extend_lease(id, lane, lease_ms)
  set(id, lane .. '.lease', now + lease_ms)
  redis.call('ZADD', key('leases'), now + lease_ms, id .. ' ' .. lane)
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

-- Whether workers have spent the time on a job that it may take; those at work now are counted in.
local function overdue(id)
  local timeout, worked = num(id, 'timeout'), num(id, 'worked')
  if timeout == 0 then return false end
  for _, lane in ipairs(LANES) do
    if num(id, lane .. '.lease') > 0 then worked = worked + now - num(id, lane .. '.began') end
  end
  return worked >= timeout
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
  redis.call('ZREM', key('deadlines'), id)
  emit(id, status, data)
  count_end(id, status)
  limits.note_end(id, status)
  keeping.note_end(id)
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

-- A job whose time is spent fails; its workers hear of it at their next report.
local function end_overdue(id)
  if terminal(get(id, 'status')) or not overdue(id) then return false end
  if get(id, 'status') ~= 'cancelling' then fail(id, get(id, 'timeout.problem')) end
  return true
end

-- A record that no transition can work with: out of everybody's way, and failed if it can say so.
local function condemn(id, problem)
  redis.call('SREM', key('open'), id)
  redis.call('ZREM', key('deadlines'), id)
  for _, lane in ipairs(LANES) do
    redis.call('ZREM', key('leases'), id .. ' ' .. lane)
    redis.call('ZREM', key('delayed'), id .. ' ' .. lane)
  end
  if redis.call('TYPE', job_key(id)).ok ~= 'hash' or terminal(get(id, 'status')) then return end
  local events = key('job', id, 'events')
  if redis.call('TYPE', events).ok ~= 'stream' then redis.call('DEL', events) end
  local last = redis.call('XREVRANGE', events, '+', '-', 'COUNT', 1)[1]
  set(id, 'sequence', last and last[1]:match('^%d+') or 0)
  fail(id, problem)
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
  count(id, 'retry ' .. reason)
  refresh(id)
end

-- What time does -------------------------------------------------------------------------------------

local function lapse(policy, limit)
  local lapsed = {}
  local expired = redis.call('ZRANGEBYSCORE', key('leases'), '-inf', now, 'LIMIT', 0, limit)
  for _, member in ipairs(expired) do
    local id, lane = member:match('^(%S+) (%S+)$')
    redis.call('ZREM', key('leases'), member)
    if id and exists(id) then
      if not sound(id) then
        condemn(id, policy.invalid_problem)
      elseif num(id, lane .. '.lease') > 0 and not terminal(get(id, 'status')) then
        lapsed[#lapsed + 1] = { id, lane }
        crashed(id, lane, 'worker_lost', policy.crash_problem, policy)
      end
    end
  end
  local due = redis.call('ZRANGEBYSCORE', key('delayed'), '-inf', now, 'LIMIT', 0, limit)
  for _, member in ipairs(due) do
    redis.call('ZREM', key('delayed'), member)
    local id = member:match('^(%S+) ')
    if id and exists(id) then
      if sound(id) then refresh(id) else condemn(id, policy.invalid_problem) end
    end
  end
  local late = redis.call('ZRANGEBYSCORE', key('deadlines'), '-inf', now, 'LIMIT', 0, limit)
  for _, id in ipairs(late) do
    redis.call('ZREM', key('deadlines'), id)
    if exists(id) and sound(id) and not terminal(get(id, 'status')) and not get(id, 'started') then
      fail(id, get(id, 'ttl.problem') or policy.invalid_problem)
    end
  end
  return lapsed
end

-- Look at some of the jobs that have not ended, a few more at each call: each must be where a claim or a
-- lapse will find it. Transitions keep it so; this is for what they cannot know of.
local function heal(policy, limit)
  local from = redis.call('GET', key('healed')) or '0'
  local page = redis.call('SSCAN', key('open'), from, 'COUNT', limit)
  if page[1] ~= from then redis.call('SET', key('healed'), page[1]) end
  for _, id in ipairs(page[2]) do
    if sound(id) and not terminal(get(id, 'status')) then
      for _, lane in ipairs(LANES) do
        local lease = num(id, lane .. '.lease')
        if lease > 0 then redis.call('ZADD', key('leases'), lease, id .. ' ' .. lane) end
      end
      if not finish_cancelling(id) then
        refresh(id)
        limits.note_open(id)
      end
    else
      condemn(id, policy.invalid_problem)
    end
  end
end

-- Claiming -------------------------------------------------------------------------------------------

local function begin(id, lane, a)
  take_ready(id, lane)
  redis.call('HINCRBY', job_key(id), lane .. '.fence', 1)
  set(id, lane .. '.token', a.token, lane .. '.worker', a.worker, lane .. '.began', now)
  extend_lease(id, lane, a.lease_ms)
  redis.call('SET', key('claim', a.token), id, 'PX', a.lease_ms)
  redis.call('HSETNX', job_key(id), lane .. '.fingerprint', a.fingerprints[get(id, 'preset')])
  local number, sections = num(id, lane .. '.next'), num(id, 'sections')
  if (lane == 'render' and number > 0) or (lane == 'deliver' and number < sections) then
    charge(lane, get(id, 'priority'), get(id, 'tenant'), num(id, 'cost'))
  end
  if get(id, 'status') == 'queued' then
    set(id, 'status', 'running', 'started', now)
    redis.call('ZREM', key('deadlines'), id)
    emit(id, 'started')
    observe(id, 'queue_wait', now - num(id, 'created'))
  end
  if lane == 'render' and number > 0 then
    emit(id, 'section.started', { section = number - 1, total_sections = sections })
  end
end

local function next_job(a)
  local function condemned(id) condemn(id, a.policy.invalid_problem) end
  for _, class in ipairs(CLASSES) do
    local id = best_of_class(a.lane, class, a.fingerprints, a.version, condemned)
    if id then return id end
  end
end

local function claimed(id, a)
  return { task = { id = id, number = num(id, a.lane .. '.next'), fence = num(id, a.lane .. '.fence'),
    crashes = num(id, a.lane .. '.crashes'), more = next_job(a) ~= nil } }
end

-- What to ring for after a worker's report; nothing for a record that is gone.
local function ring_for(id)
  return exists(id) and refresh(id) or {}
end

-- Transitions ----------------------------------------------------------------------------------------

local transitions = {}

-- The job that an Idempotency-Key stands for: its id, or false where the key came with another request.
local function known_as(idempotency)
  local known = idempotency and redis.call('GET', key('idempotent', idempotency.key))
  if not known then return nil end
  local digest, id = known:match('^(%S+) (%S+)$')
  if not id or not exists(id) then return nil end
  return digest == idempotency.digest and id
end

function transitions.submit(a)
  local known = known_as(a.idempotency)
  if known == false then return { mismatch = true } end
  local id = known or a.id
  if exists(id) then return { id = id, created = false, ring = refresh(id) } end
  local quota = limits.ask(a, true)
  if quota.full or quota.refused then return { quota = quota } end
  if a.announced and not keeping.arrive(a.id) then return { late = true } end
  local order = redis.call('INCR', key('submitted'))
  set(a.id, 'version', a.version, 'spec', a.spec, 'tenant', a.tenant, 'preset', a.preset,
    'priority', a.priority, 'cost', a.cost, 'sections', a.sections, 'ahead', a.ahead,
    'retention', a.retention, 'order', order, 'status', 'queued', 'created', now, 'sequence', 0,
    'render.next', 0, 'render.fence', 0, 'render.lease', 0, 'render.crashes', 0,
    'deliver.next', 0, 'deliver.fence', 0, 'deliver.lease', 0, 'deliver.crashes', 0)
  if a.webhook then set(a.id, 'webhook', a.webhook) end
  if a.metadata then set(a.id, 'metadata', a.metadata) end
  if a.timeout then set(a.id, 'timeout', a.timeout, 'timeout.problem', a.timeout_problem) end
  if a.ttl then
    set(a.id, 'ttl.problem', a.ttl_problem)
    redis.call('ZADD', key('deadlines'), now + a.ttl, a.id)
  end
  redis.call('SADD', key('open'), a.id)
  redis.call('ZADD', key('listed', a.tenant), order, a.id)
  if a.idempotency then
    local same = a.idempotency.digest .. ' ' .. a.id
    redis.call('SET', key('idempotent', a.idempotency.key), same, 'PX', DAY)
  end
  emit(a.id, 'queued', { total_sections = a.sections })
  count_accepted(a.id)
  limits.note_accepted(a.id)
  return { id = a.id, created = true, ring = refresh(a.id), quota = quota }
end

-- Whether a tenant may submit now, before anybody has looked at its picture.
function transitions.room(a)
  return limits.ask(a, false)
end

function transitions.claim(a)
  lapse(a.policy, SCAN)
  local repeated = redis.call('GET', key('claim', a.token))
  if repeated and get(repeated, a.lane .. '.token') == a.token
    and num(repeated, a.lane .. '.lease') > 0 then
    return claimed(repeated, a)
  end
  local id = next_job(a)
  if not id then return {} end
  begin(id, a.lane, a)
  return claimed(id, a)
end

function transitions.renew(a)
  if not holds(a.id, a.lane, a.fence) then return { signal = 'lost' } end
  if end_overdue(a.id) then return { signal = 'cancel' } end
  extend_lease(a.id, a.lane, a.lease_ms)
  return { signal = signal(a.id) }
end

function transitions.step(a)
  if not holds(a.id, a.lane, a.fence) then return { signal = 'lost' } end
  if end_overdue(a.id) then return { signal = 'cancel' } end
  local step = cjson.encode({ job_id = a.id, section = a.section, step = a.step,
    total_steps = a.total_steps, total_sections = num(a.id, 'sections') })
  set(a.id, 'step', step)
  if a.step == a.total_steps or now - num(a.id, 'step.published') >= STEP_INTERVAL then
    set(a.id, 'step.published', now)
    redis.call('PUBLISH', key('steps'), step)
  end
  return { signal = signal(a.id) }
end

function transitions.preview(a)
  if not holds(a.id, a.lane, a.fence) then return { signal = 'lost' } end
  local preview = cjson.encode({ job_id = a.id, section = a.section, step = a.step,
    total_steps = a.total_steps, width = a.width, height = a.height,
    content_type = a.content_type, image = a.image })
  redis.call('SET', key('job', a.id, 'preview'), preview, 'PX', PREVIEW_KEPT)
  redis.call('PUBLISH', key('previews'), preview)
  return { signal = signal(a.id) }
end

-- Why a commit cannot be: the job was cancelled under its holder's hands, or somebody else holds it.
local function uncommitted(a)
  local status = get(a.id, 'status')
  if (status == 'cancelling' or status == 'cancelled') and num(a.id, a.lane .. '.fence') == a.fence then
    return { accepted = false, ring = {} }
  end
  return { signal = 'lost' }
end

local function tell_of_commit(a)
  local sections = num(a.id, 'sections')
  if a.lane == 'render' and a.number > 0 then
    emit(a.id, 'section.sampled', { section = a.number - 1 })
    note_pace(a.id, a.lane)
  elseif a.lane == 'deliver' and a.number < sections then
    emit(a.id, 'section.completed', '{"section":' .. a.number .. ',"clip":' .. a.artifact .. '}')
    count(a.id, 'section')
    note_pace(a.id, a.lane)
  elseif a.lane == 'deliver' then
    finish(a.id, 'completed', '{"video":' .. a.artifact .. '}')
  end
end

local function commit(a)
  local field = 'artifact:' .. a.lane .. ':' .. a.number
  if get(a.id, field) == a.artifact then return { accepted = true, ring = refresh(a.id) } end
  if not holds(a.id, a.lane, a.fence) or num(a.id, a.lane .. '.next') ~= a.number then
    return uncommitted(a)
  end
  drop_lease(a.id, a.lane)
  if get(a.id, 'status') == 'cancelling' then
    finish_cancelling(a.id)
    return { accepted = false, ring = refresh(a.id) }
  end
  set(a.id, field, a.artifact, a.lane .. '.next', a.number + 1, a.lane .. '.crashes', 0)
  redis.call('HDEL', job_key(a.id), a.lane .. '.after')
  note_spent(a.id, a.lane, a.spent or {})
  limits.note_commit(a.id, a.lane, a.artifact)
  tell_of_commit(a)
  end_overdue(a.id)
  return { accepted = true, ring = refresh(a.id) }
end

-- In the same step the worker may claim again, whatever became of the commit unless it had lost the task.
function transitions.commit(a)
  local answer = commit(a)
  if a.next and not answer.signal then answer.task = transitions.claim(a.next).task end
  return answer
end

function transitions.release(a)
  if holds(a.id, a.lane, a.fence) then
    give_up(a.id, a.lane)
    finish_cancelling(a.id)
  end
  return { ring = ring_for(a.id) }
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
  return { ring = ring_for(a.id) }
end

function transitions.cancel(a)
  local status = get(a.id, 'status')
  if not status then return { missing = true } end
  if get(a.id, 'cancel.token') == a.token then return { status = status } end
  if terminal(status) then return { finished = status } end
  set(a.id, 'cancel.token', a.token, 'cancel.at', now)
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
  heal(a.policy, a.limit)
  for _, lane in ipairs(LANES) do
    local seen = {}
    for _, class in ipairs(CLASSES) do
      for _, pool in ipairs(redis.call('SMEMBERS', key('pools', lane, class))) do
        local preset = pool:match('^(.*) %S+ %S+$')
        if not seen[preset] then
          seen[preset] = true
          ring[#ring + 1] = { lane, preset }
        end
      end
    end
  end
  return { lapsed = lapsed, ring = ring }
end

function transitions.position(a)
  if not get(a.id, 'render.ready') or get(a.id, 'status') ~= 'queued' then return {} end
  return { position = jobs_before(a.id) + 1 }
end

return cjson.encode(transitions[ARGV[1]](cjson.decode(ARGV[2])))
