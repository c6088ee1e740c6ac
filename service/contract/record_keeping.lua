-- How long an ended job is kept. Joined after record_base.lua; keeping.lua removes what is kept no longer.
--
-- expiring       ids of ended jobs by the time at which they expire
-- gone:{id}      tenant of an ended job; outlives it, so that its owner is told that it expired
-- uploads        ids whose picture is being stored, by when that began; a submission takes its own out
-- removing       "{reason} {id}" of jobs whose stored objects are to be deleted, by when that was decided

local TOLD = 30 * DAY              -- for so long after its expiry the owner of a job is told of it

local keeping = {}

-- The record expires by itself, on time; its files when a cleaner comes by.
function keeping.note_end(id)
  local keep = num(id, 'retention')
  if keep == 0 then keep = WEEK end
  redis.call('PEXPIRE', job_key(id), keep)
  redis.call('PEXPIRE', key('job', id, 'events'), keep)
  redis.call('ZADD', key('expiring'), now + keep, id)
  redis.call('SET', key('gone', id), get(id, 'tenant') or '', 'PX', keep + TOLD)
end

-- Whether an announced upload may become a job: not if it took so long that its picture was swept.
function keeping.arrive(id)
  return redis.call('ZREM', key('uploads'), id) == 1
end
