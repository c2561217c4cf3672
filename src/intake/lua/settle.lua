#!lua flags=allow-oom
-- Ends a batch: what is left over goes to the delayed set, everything else is gone.
-- KEYS[1]: base. ARGV: rid, token, then pairs: due (ms; "now" for at once), member of the delayed set.
-- Answers 1, 0 (already ended: an earlier call whose answer was lost), -1 (somebody else's by now).
local base, rid, token = KEYS[1], ARGV[1], ARGV[2]
local meta = redis.call('HGET', base .. ':meta', rid)
if not meta then return 0 end
if string.match(meta, '^([^|]*)|') ~= token then return -1 end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
for i = 3, #ARGV, 2 do
  local due = ARGV[i] == 'now' and string.format('%.0f', now) or ARGV[i]
  redis.call('ZADD', base .. ':delayed', due, ARGV[i + 1])
end
redis.call('ZREM', base .. ':lease', rid)
redis.call('HDEL', base .. ':meta', rid)
redis.call('UNLINK', base .. ':if:' .. rid)
return 1
