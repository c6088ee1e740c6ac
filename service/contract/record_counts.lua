-- What is counted about all jobs, in the same step as the change that is counted: exact through any crash
-- of a gateway or a worker, and the same whichever gateway shows it.
--
-- counts         hash of counters; a field is the words of a name and its labels, the preset last
-- pace           milliseconds of a worker for one unit of section cost, smoothed, by preset for the render lane
--                and by "deliver {preset}" for the other
--
-- Labels are words of small closed sets; no id, tenant or prompt ever becomes one.

local BUCKETS = {  -- seconds
  queue_wait = { 0.1, 0.5, 1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200 },
  job = { 1, 2, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200 },
  cancel = { 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60 },
}
local SMOOTHING = 0.2  -- weight of the newest section in the pace

local function count(id, words, by)
  return redis.call('HINCRBY', key('counts'), words .. ' ' .. (get(id, 'preset') or 'unknown'), by or 1)
end

-- Counts one duration; none at all makes the buckets known, each with a zero.
local function observe(id, name, milliseconds)
  local open = milliseconds and 1 or 0
  milliseconds = milliseconds or 0
  for _, limit in ipairs(BUCKETS[name]) do
    local hit = milliseconds <= 1000 * limit and open or 0
    open = open - hit
    count(id, 'le ' .. name .. ' ' .. limit, hit)
  end
  count(id, 'le ' .. name .. ' +Inf', open)
  count(id, 'sum ' .. name, math.max(0, milliseconds))
end

-- A job was accepted. With a preset's first one all its buckets begin at zero: the first observation of a
-- series that was not there before is invisible to a query over a window.
local function count_accepted(id)
  if count(id, 'accepted') == 1 then
    for name in pairs(BUCKETS) do observe(id, name) end
  end
end

-- A section was sampled or delivered: how long a worker was busy with one unit of its predicted cost.
local function note_pace(id, lane)
  local began, cost, name = num(id, lane .. '.began'), num(id, 'cost'), get(id, 'preset')
  if began == 0 or cost <= 0 then return end
  if lane == 'deliver' then name = 'deliver ' .. name end
  local pace = (now - began) / cost
  local before = tonumber(redis.call('HGET', key('pace'), name))
  if before then pace = before + SMOOTHING * (pace - before) end
  redis.call('HSET', key('pace'), name, tostring(pace))
end

-- What became part of a job took so much: milliseconds of its worker, and what the worker counted.
local function note_spent(id, lane, spent)
  local took = math.max(0, math.floor(now - num(id, lane .. '.began')))
  redis.call('HINCRBY', job_key(id), lane .. '.spent', took)
  for _, name in ipairs({ 'steps', 'skipped' }) do
    if spent[name] then redis.call('HINCRBY', job_key(id), name, spent[name]) end
  end
  if spent.vram then set(id, 'vram', string.format('%.0f', math.max(spent.vram, num(id, 'vram')))) end
end

-- A job has ended: how, how long it took, and how long the wish to cancel it took.
local function count_end(id, status)
  count(id, 'ended ' .. status)
  if status == 'completed' then observe(id, 'job', now - num(id, 'created')) end
  local asked = num(id, 'cancel.at')
  if status == 'cancelled' and asked > 0 then observe(id, 'cancel', now - asked) end
end
