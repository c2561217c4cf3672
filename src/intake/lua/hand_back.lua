#!lua flags=allow-oom
-- Gives a whole batch back at once, as it is.
-- KEYS[1]: base. ARGV: rid, token, "released" (no fault of the tasks) or "crashed" (counts as a crash).
-- Answers 1, 0 (not there), -1 (somebody else's).
local base, rid, token = KEYS[1], ARGV[1], ARGV[2]
local meta = redis.call('HGET', base .. ':meta', rid)
if not meta then return 0 end
local owner, rest = string.match(meta, '^([^|]*)(|.*)$')
if owner ~= token then return -1 end
-- A batch without an owner is a released one; under a lease that has run out it is a crashed one.
if ARGV[3] == 'released' then redis.call('HSET', base .. ':meta', rid, rest) end
redis.call('ZADD', base .. ':lease', 0, rid)
return 1
