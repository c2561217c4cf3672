#!lua flags=allow-oom
-- Acknowledges and deletes entries; those that come back later go to the delayed set first.
-- KEYS: stream, delayed set. ARGV: group, consumer, check ("1": some may be another consumer's by now),
-- number of delayed ones, then per delayed one: id, due (ms), member; then all ids that leave the stream.
-- Answers how many ids were not ours.
local stream, delayed = KEYS[1], KEYS[2]
local group, consumer, check, n = ARGV[1], ARGV[2], ARGV[3] == '1', tonumber(ARGV[4])
local first = 5 + 3 * n
local ours, foreign, lost = {}, {}, 0
for i = first, #ARGV do
  local id = ARGV[i]
  local owner = true
  if check then
    local pending = redis.call('XPENDING', stream, group, id, id, 1)[1]
    owner = pending and pending[2] == consumer
  end
  if owner then
    ours[#ours + 1] = id
  else
    foreign[id] = true
    lost = lost + 1
  end
end
for i = 5, first - 1, 3 do
  if not foreign[ARGV[i]] then redis.call('ZADD', delayed, ARGV[i + 1], ARGV[i + 2]) end
end
for i = 1, #ours, 1000 do
  local last = math.min(i + 999, #ours)
  redis.call('XACK', stream, group, unpack(ours, i, last))
  redis.call('XDEL', stream, unpack(ours, i, last))
end
return lost
