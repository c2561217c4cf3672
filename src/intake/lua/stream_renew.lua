#!lua flags=allow-oom
-- Shows life for the entries that are still this consumer's. KEYS[1]: stream.
-- ARGV: group, consumer, ids. Answers the ids that are somebody else's or gone.
local stream, group, consumer = KEYS[1], ARGV[1], ARGV[2]
local ours, lost = {}, {}
for i = 3, #ARGV do
  local pending = redis.call('XPENDING', stream, group, ARGV[i], ARGV[i], 1)[1]
  local list = pending and pending[2] == consumer and ours or lost
  list[#list + 1] = ARGV[i]
end
if #ours > 0 then
  ours[#ours + 1] = 'JUSTID'
  redis.call('XCLAIM', stream, group, consumer, 0, unpack(ours))
end
return lost
