-- Shared by every script. KEYS[1] is the shard's clock, KEYS[2] a log; ARGV[1] the highest tick that the caller saw
-- of this shard, ARGV[2] of any shard. A reply is {code, now, last, incarnation, ...}.
local ORIGIN = 1767225600000
local LOG_MAX, LOG_SLACK = 10000, 500

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local clock = redis.call('HMGET', KEYS[1], 'last', 'incarnation', 'kept', 'resumed')
local last = tonumber(clock[1] or '0')
local incarnation = tonumber(clock[2] or '0')
-- The newest stamp that a server had when it started, and below which it then gave none: see boot.lua.
local kept, resumed = tonumber(clock[3] or '0'), tonumber(clock[4] or '0')
local trimmed_field = 'trimmed'

local function integer(n)
  return string.format('%.0f', n)
end

local function reply(code, ...)
  return {code, now, last, incarnation, ...}
end

-- The stamp of a write: later than the clock, than every stamp of this shard, than every stamp that the caller saw.
local function next_tick()
  last = math.max((now - ORIGIN) * 4096, last, tonumber(ARGV[2])) + 1
  return last
end

-- From now on no write of this shard gets a stamp of `tick` or below.
local function raise(tick)
  if tick > last then
    last = tick
    redis.call('HSET', KEYS[1], 'last', integer(last))
  end
end

-- Adds an entry under the stamp that next_tick gave, and keeps how far the log was trimmed.
local function log(kind, name, before, after, meta_before, meta_after)
  redis.call('XADD', KEYS[2], integer(last) .. '-0', 'k', kind, 'n', name, 'b', before or '', 'a', after or '',
    'mb', meta_before or '', 'ma', meta_after or '')
  redis.call('HSET', KEYS[1], 'last', integer(last))
  if redis.call('XLEN', KEYS[2]) > LOG_MAX + LOG_SLACK then
    redis.call('XTRIM', KEYS[2], 'MAXLEN', LOG_MAX)
    local first = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1][1]
    redis.call('HSET', KEYS[1], trimmed_field, integer(tonumber(string.match(first, '^%d+')) - 1))
  end
end

-- Up to where the log is gone for a reader that wants stamps from `first` on.
local function gone(first, trimmed)
  local lost = tonumber(redis.call('HGET', KEYS[1], 'lost') or '0')
  local forgotten = first > kept + 1 and first <= resumed and first or 0
  return math.max(tonumber(trimmed or '0'), lost, forgotten)
end

local seen = tonumber(ARGV[1])
if last < seen or (seen > kept and seen < resumed) then
  return reply('LOST')
end
