-- What a tenant may have at once and ask for a minute, decided in the step that accepts a job; and what it
-- has had, counted in the step in which it is had.
--
-- live:{tenant}      ids of its jobs that have not ended
-- rate:{tenant}      the time at which its latest submissions will be forgotten
-- limits:{tenant}    what was set for it alone; a limit that is not here is the deployment's, 0 is none
-- usage:{tenant}     "{day since 1970} {word}": jobs, completed, failed, cancelled, sections, gpu_ms, bytes
--
-- A limit's policies: `submissions` a minute, `jobs` at once, `gpu-seconds` that wait to be rendered.

local MINUTE = 60000
local YEAR = 366                   -- days for which usage is kept
local FIRST_PACE = 57              -- milliseconds a unit of cost takes before anything was measured
local MOST_RETRY = 3600 * 1000     -- nobody is told to come back later than this

local limits = {}

-- Usage ----------------------------------------------------------------------------------------------

local function use(id, word, by)
  local tenant = get(id, 'tenant')
  if not tenant or by <= 0 then return end
  local usage, day = key('usage', tenant), math.floor(now / DAY)
  redis.call('HINCRBY', usage, day .. ' ' .. word, by)
  local first = redis.call('HGET', usage, 'first')
  if not first then redis.call('HSET', usage, 'first', day) end
  if first and day - tonumber(first) > YEAR then
    for _, old in ipairs({ 'jobs', 'completed', 'failed', 'cancelled', 'sections', 'gpu_ms', 'bytes' }) do
      redis.call('HDEL', usage, first .. ' ' .. old)
    end
    redis.call('HSET', usage, 'first', first + 1)
  end
end

-- Work that became part of the job; a crash's costs nobody anything.
function limits.note_commit(id, lane, artifact)
  if lane == 'render' then
    use(id, 'gpu_ms', now - num(id, 'render.began'))
    if num(id, 'render.next') > 1 then use(id, 'sections', 1) end
  end
  use(id, 'bytes', tonumber(artifact:match('"size_bytes":%s*(%d+)')) or 0)
end

function limits.note_open(id)
  if get(id, 'tenant') then redis.call('SADD', key('live', get(id, 'tenant')), id) end
end

function limits.note_accepted(id)
  limits.note_open(id)
  use(id, 'jobs', 1)
end

function limits.note_end(id, status)
  if get(id, 'tenant') then redis.call('SREM', key('live', get(id, 'tenant')), id) end
  use(id, status, 1)
end

-- Limits ---------------------------------------------------------------------------------------------

local function limit_of(tenant, a, name)
  return tonumber(redis.call('HGET', key('limits', tenant), name)) or a[name] or 0
end

local function pace_of(preset)
  return tonumber(redis.call('HGET', key('pace'), preset)) or FIRST_PACE
end

-- Milliseconds one render worker still needs for a job.
local function work_left(id)
  local sections = num(id, 'sections') - math.max(0, num(id, 'render.next') - 1)
  return math.max(0, sections) * num(id, 'cost') * pace_of(get(id, 'preset') or '')
end

-- The jobs of a tenant that have not ended: how many, what work is left, and the least left of one that goes on.
local function live_jobs(tenant)
  local live, number, work, least = key('live', tenant), 0, 0, nil
  for _, id in ipairs(redis.call('SMEMBERS', live)) do
    if redis.call('SISMEMBER', key('open'), id) == 0 then
      redis.call('SREM', live, id)  -- its end could not say whose it was
    else
      local left = work_left(id)
      number, work = number + 1, work + left
      if get(id, 'status') ~= 'paused' then least = math.min(least or left, left) end
    end
  end
  return number, work, least
end

-- How much longer a tenant's own work takes than if it had one worker for itself.
local function sharing()
  local tenants, workers = {}, 0
  for _, class in ipairs(CLASSES) do
    for _, pool in ipairs(redis.call('SMEMBERS', key('pools', 'render', class))) do
      for _, tenant in ipairs(redis.call('ZRANGE', key('active', 'render', class, pool), 0, -1)) do
        tenants[tenant] = true
      end
    end
  end
  for _, member in ipairs(redis.call('ZRANGE', key('leases'), 0, -1)) do
    local id = member:match('^(%S+) render$')
    if id then
      workers = workers + 1
      tenants[get(id, 'tenant') or ''] = true
    end
  end
  local number = 0
  for _ in pairs(tenants) do number = number + 1 end
  return math.max(1, number) / math.max(1, workers)
end

local function policy(name, limit, used, more)
  local found = { name = name, limit = limit, left = math.max(0, math.floor(limit - used)) }
  for word, value in pairs(more or {}) do found[word] = value end
  return found
end

-- Submissions are spread evenly over a minute, and a whole minute's may come at once (GCRA): `until_empty`
-- is how long those that came are still remembered.
local function rate_policy(tenant, limit, taken)
  local each = MINUTE / limit
  local until_empty = math.max(0, (tonumber(redis.call('GET', key('rate', tenant))) or 0) - now)
  local wait = until_empty + each - MINUTE
  if wait > 0 then return policy('submissions', limit, limit, { window = 60, reset = until_empty }), wait end
  if taken then
    until_empty = until_empty + each
    redis.call('SET', key('rate', tenant), now + math.ceil(until_empty), 'PX', math.ceil(until_empty))
  end
  return policy('submissions', limit, until_empty / each, { window = 60, reset = until_empty })
end

local function jobs_policy(limit, number, least, taken)
  local found = policy('jobs', limit, number + (taken and 1 or 0), { unit = 'jobs' })
  if number >= limit then return found, least and math.max(1, least * sharing()) or MINUTE end
  return found
end

-- A tenant's only job is taken whatever its length, as it could never be taken otherwise.
local function work_policy(limit, number, work, more)
  local found = policy('gpu-seconds', limit, (work + more) / 1000, { unit = 'gpu-seconds' })
  local over = work + more - 1000 * limit
  if number > 0 and over > 0 then return found, math.max(1, math.min(over, work) * sharing()) end
  return found
end

-- Whether a tenant may submit a job now: its policies as they stand, and where one refuses it, which and for how
-- long. `taken` counts the submission if it may.
function limits.ask(a, taken)
  local given, tenant = a.limits or {}, a.tenant
  local most, answer = given.open_jobs or 0, { policies = {} }
  if most > 0 and redis.call('SCARD', key('open')) >= most then return { full = true } end
  local function add(found, wait)
    answer.policies[#answer.policies + 1] = found
    if wait and wait > (answer.retry or 0) then
      answer.refused, answer.retry = found.name, math.min(wait, MOST_RETRY)
    end
  end
  local a_minute, at_once, seconds = limit_of(tenant, given, 'submissions'), limit_of(tenant, given, 'jobs'),
    limit_of(tenant, given, 'gpu_seconds')
  if at_once > 0 or seconds > 0 then
    local number, work, least = redis.call('SCARD', key('live', tenant)), 0, nil
    if seconds > 0 or number >= at_once then number, work, least = live_jobs(tenant) end
    local more = (a.sections or 0) * (a.cost or 0) * pace_of(a.preset or '')
    if at_once > 0 then add(jobs_policy(at_once, number, least, taken)) end
    if seconds > 0 then add(work_policy(seconds, number, work, more)) end
  end
  -- Last, so that a submission that is refused for another reason uses up nothing.
  if a_minute > 0 then add(rate_policy(tenant, a_minute, taken and not answer.refused)) end
  return answer
end
