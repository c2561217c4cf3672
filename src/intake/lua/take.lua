#!lua flags=allow-oom
-- Takes one batch under a lease. KEYS[1] is the queue's base key; every other key is derived from it.
--
-- ARGV: rid, token, lease (us), most tasks, most bytes, expected bytes of a task, crash limit,
--       most delayed tasks while lists have tasks, then one pair per list: its key's suffix, its reserve.
-- Answers: nil (nothing), {'paused'}, {'lost'} (the rid is somebody else's),
--          {'batch', meta, broken} (its bodies are in BASE:if:RID; `broken` names lists of another type).
--
-- meta: token|crashes|count|origin|offset|taken_us|n_delayed|n_1|..|n_k   (the counts in the order of the lists)
-- A batch without a token was given back: whoever comes takes it. A batch whose lease ran out under a
-- token crashed its worker: it is split, so that a task that kills workers ends up alone.
local base, rid, token = KEYS[1], ARGV[1], ARGV[2]
local lease, max_tasks, max_bytes = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local expected, crash_limit, max_delayed = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local metas, leases, delayed = base .. ':meta', base .. ':lease', base .. ':delayed'
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local mine = base .. ':if:' .. rid

local function number(n) return string.format('%.0f', n) end

local function split(text)
  local fields = {}
  for field in string.gmatch(text .. '|', '([^|]*)|') do fields[#fields + 1] = field end
  return fields
end

-- 1. The answer to this very call may have been lost.
local known = redis.call('HGET', metas, rid)
if known then
  if split(known)[1] == token then
    redis.call('ZADD', leases, 'XX', 'GT', number(now + lease), rid)
    return {'batch', known, ''}
  end
  return {'lost'}
end
if redis.call('EXISTS', base .. ':paused') == 1 then return {'paused'} end

-- 2. A batch that was given back, or whose worker died.
local due = redis.call('ZRANGEBYSCORE', leases, '-inf', number(now), 'LIMIT', 0, 1)[1]
if due then
  local f = split(redis.call('HGET', metas, due) or '')
  local theirs = base .. ':if:' .. due
  local count = tonumber(f[3] or '0')
  if #f < 7 or redis.call('LLEN', theirs) ~= count then
    -- Nothing of ours looks like this. It is left where it is, out of the way, for a person to look at.
    redis.call('ZREM', leases, due)
    redis.call('HSET', base .. ':broken', due, redis.call('HGET', metas, due) or '')
  else
    local crashes = tonumber(f[2])
    if f[1] ~= '' then crashes = crashes + 1 end
    local size = count
    if f[1] ~= '' and count > 1 then
      if crashes >= crash_limit - 1 then size = 1 else size = math.ceil(math.sqrt(count)) end
    end
    redis.call('ZREM', leases, due)
    redis.call('HDEL', metas, due)
    local answer
    local start, part = 0, 0
    while start < count do
      local n = math.min(size, count - start)
      local name = part == 0 and rid or (due .. '.' .. part)
      if n == count then
        redis.call('RENAME', theirs, base .. ':if:' .. name)
      else
        local left = n
        while left > 0 do
          local items = redis.call('LPOP', theirs, math.min(left, 1000))
          redis.call('RPUSH', base .. ':if:' .. name, unpack(items))
          left = left - #items
        end
      end
      -- The counts of this part: its overlap with each class of the whole.
      local counts, from = {}, 0
      for i = 7, #f do
        local to = from + tonumber(f[i])
        counts[#counts + 1] = number(math.max(0, math.min(to, start + n) - math.max(from, start)))
        from = to
      end
      local owner = part == 0 and token or ''
      local meta = table.concat({owner, number(crashes), number(n), f[4], number(tonumber(f[5]) + start), f[6],
        table.concat(counts, '|')}, '|')
      redis.call('HSET', metas, name, meta)
      redis.call('ZADD', leases, part == 0 and number(now + lease) or number(part), name)
      if part == 0 then answer = meta end
      start = start + n
      part = part + 1
    end
    return {'batch', answer, ''}
  end
end

-- 3. New tasks: the delayed ones that are due, then the lists in their order.
local total, bytes = 0, 0

local function keep(items, first, last)
  for i = first, last, 1000 do
    redis.call('RPUSH', mine, unpack(items, i, math.min(i + 999, last)))
  end
end

-- How many of the items fit under `cap` bytes; the first always does when `first` says so.
local function fitting(items, cap, first)
  for i = 1, #items do
    if not (first and i == 1) and bytes + #items[i] > cap then return i - 1 end
    bytes = bytes + #items[i]
  end
  return #items
end

local lists, broken = {}, {}
local waiting = 0
for i = 9, #ARGV, 2 do
  local list = {key = base .. ':' .. ARGV[i], reserve = tonumber(ARGV[i + 1]), length = 0}
  local length = redis.pcall('LLEN', list.key)
  if type(length) == 'table' then broken[#broken + 1] = ARGV[i] else list.length = length end
  waiting = waiting + list.length
  lists[#lists + 1] = list
end

local counts = {}
local most = waiting > 0 and math.min(max_delayed, max_tasks) or max_tasks
local items = redis.call('ZRANGEBYSCORE', delayed, '-inf', number(math.floor(now / 1000)), 'LIMIT', 0, most)
if #items > 0 then
  local n = fitting(items, max_bytes, true)
  keep(items, 1, n)
  for i = 1, n, 1000 do
    redis.call('ZREM', delayed, unpack(items, i, math.min(i + 999, n)))
  end
  total = n
end
counts[1] = number(total)

-- What the lists below have a right to, in tasks and in bytes, is left to them as far as they have tasks.
local below = 0
for i = #lists, 1, -1 do
  lists[i].below = below
  below = below + math.min(lists[i].length, lists[i].reserve)
end
for i, list in ipairs(lists) do
  local want = math.min(list.length, math.max(0, max_tasks - total - list.below))
  local cap = max_bytes * (1 - math.min(1, list.below / max_tasks))
  local got, full = 0, false
  while got < want and not full do
    local n = math.min(want - got, 500, math.max(1, math.floor((cap - bytes) / expected)))
    local popped = redis.call('RPOP', list.key, n)
    local fit = fitting(popped, cap, got == 0 and (total == 0 or list.reserve > 0))
    keep(popped, 1, fit)
    for j = #popped, fit + 1, -1 do redis.call('RPUSH', list.key, popped[j]) end
    full = fit < #popped
    got = got + fit
    total = total + fit
    if total > 0 then expected = math.max(1, bytes / total) end
  end
  counts[i + 1] = number(got)
end
local names = table.concat(broken, ',')
if total == 0 then
  if names ~= '' then return {'empty', '', names} end
  return nil
end
local meta = table.concat({token, '0', number(total), rid, '0', number(now), table.concat(counts, '|')}, '|')
redis.call('HSET', metas, rid, meta)
redis.call('ZADD', leases, number(now + lease), rid)
return {'batch', meta, names}
