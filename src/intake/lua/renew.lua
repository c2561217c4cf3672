#!lua flags=allow-oom
-- Renews leases. KEYS[1]: base. ARGV: lease (us), then pairs: rid, token. Answers the rids that are lost.
local base, lease = KEYS[1], tonumber(ARGV[1])
local time = redis.call('TIME')
local deadline = string.format('%.0f', tonumber(time[1]) * 1000000 + tonumber(time[2]) + lease)
local lost = {}
for i = 2, #ARGV, 2 do
  local meta = redis.call('HGET', base .. ':meta', ARGV[i])
  if meta and string.match(meta, '^([^|]*)|') == ARGV[i + 1] then
    redis.call('ZADD', base .. ':lease', 'XX', 'GT', deadline, ARGV[i])
  else
    lost[#lost + 1] = ARGV[i]
  end
end
return lost
