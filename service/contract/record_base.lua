-- What all transitions of the job record stand on. record.py joins this file, record_sharing.lua and
-- record.lua into one script.
--
-- The record is a hash, its history a stream, and both change only in this script, in one step, on
-- this server's clock. Keys are computed, so it needs a single server, not a cluster.
--
-- job:{id}                      the record; fields of a lane start with its name
-- job:{id}:events               its events, ids 1-0, 2-0, ...
-- job:{id}:preview              its latest preview, which soon expires
-- events                        the latest events of all jobs, for readers that follow many
-- open, healed                  ids of jobs that have not ended; how far the last look at them came
-- leases, delayed               "{id} {lane}" by expiry, by end of a back-off
-- deadlines                     ids of jobs by the time at which they must have begun
-- claim:{token}                 the job that a claim got, for as long as its answer may be lost
-- idempotent:{hash}             "{hash of the request} {id}" of a submission with an Idempotency-Key
-- record_sharing.lua describes the keys of jobs that wait.

local P = 'framepack:'
local CLASSES = { 'high', 'normal', 'low' }
local LANES = { 'render', 'deliver' }
local SCAN = 16                    -- leases looked at by a claim; tenants, where the first does not fit
local FIREHOSE = 10000             -- events kept for readers that follow many jobs
local STEP_INTERVAL = 500          -- milliseconds between published steps of a job
local PREVIEW_KEPT = 60 * 1000     -- the latest preview of a job, for whoever comes between two
local DAY = 24 * 3600 * 1000       -- for this long an Idempotency-Key gives the same job
local WEEK = 7 * DAY               -- kept for this long if the record does not say

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function key(...) return P .. table.concat({ ... }, ':') end
local function job_key(id) return key('job', id) end
local function get(id, field) return redis.call('HGET', job_key(id), field) end
local function num(id, field) return tonumber(get(id, field)) or 0 end
local function set(id, ...) redis.call('HSET', job_key(id), ...) end
local function exists(id) return redis.call('EXISTS', job_key(id)) == 1 end

local outbox = {}  -- filled by record_outbox.lua

local function emit(id, kind, data)
  local sequence = redis.call('HINCRBY', job_key(id), 'sequence', 1)
  data = data or '{}'
  if type(data) == 'table' then data = cjson.encode(data) end
  redis.call('XADD', key('job', id, 'events'), sequence .. '-0', 'type', kind, 'at', now, 'data', data)
  redis.call('XADD', key('events'), 'MAXLEN', '~', FIREHOSE, '*',
    'job', id, 'sequence', sequence, 'type', kind, 'at', now, 'data', data)
  outbox.post(id, sequence, kind, data)
end

local function terminal(status)
  return status == 'completed' or status == 'failed' or status == 'cancelled'
end

-- Soundness ------------------------------------------------------------------------------------------

local STATES = { queued = true, running = true, paused = true, cancelling = true,
  completed = true, failed = true, cancelled = true }
local COUNTS = { 'worked', 'timeout', 'version', 'order', 'sections', 'ahead', 'retention', 'created', 'sequence',
  'render.next', 'render.fence', 'render.lease', 'render.crashes', 'render.after',
  'deliver.next', 'deliver.fence', 'deliver.lease', 'deliver.crashes', 'deliver.after',
  'render.spent', 'deliver.spent', 'steps', 'skipped', 'vram' }
local WORDS = { 'version', 'spec', 'tenant', 'preset', 'priority', 'sections' }

-- Whether every transition can work with a record. What an older writer did not know may be missing.
local function sound(id)
  if redis.call('TYPE', job_key(id)).ok ~= 'hash' then return false end
  for _, value in ipairs(redis.call('HMGET', job_key(id), unpack(WORDS))) do
    if not value then return false end
  end
  for _, value in ipairs(redis.call('HMGET', job_key(id), unpack(COUNTS))) do
    if value and (#value > 15 or not value:match('^%d+$')) then return false end
  end
  local class = get(id, 'priority')
  return STATES[get(id, 'status')] and tonumber(get(id, 'cost') or 0) ~= nil
    and (class == 'high' or class == 'normal' or class == 'low')
end
