#!lua flags=allow-oom
-- Removes consumers that hold nothing and have shown no life for long. One script, so that none of them
-- can receive an entry in between. KEYS[1]: stream. ARGV: group, idle (ms). Answers how many.
local removed = 0
for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local fields = {}
  for i = 1, #info, 2 do fields[info[i]] = info[i + 1] end
  if fields.pending == 0 and fields.idle > tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], fields.name)
    removed = removed + 1
  end
end
return removed
