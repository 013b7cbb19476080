-- Shared by every script. KEYS[1] is the shard's clock, KEYS[2] a log; ARGV[1] the highest tick that the caller saw
-- of this shard, ARGV[2] of any shard. A reply is {code, now, last, incarnation, kept, reached, resumed, ...}.
local ORIGIN = 1767225600000
-- How long a log may get is looked at with one write of LOG_LOOK: how many microseconds the clock has decides.
local LOG_MAX, LOG_SLACK, LOG_LOOK = 10000, 500, 8

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local clock = redis.call('HMGET', KEYS[1], 'last', 'incarnation', 'kept', 'resumed', 'reached', 'doubts')
local last = tonumber(clock[1] or '0')
local incarnation = tonumber(clock[2] or '0')
-- Of the server's start, see boot.lua: the newest stamp that it had of this shard, below which it then gave none, and
-- the newest that it had of any shard.
local kept, resumed = tonumber(clock[3] or '0'), tonumber(clock[4] or '0')
local reached = math.max(kept, tonumber(clock[5] or '0'))
local trimmed_field = 'trimmed'

local function integer(n)
  return string.format('%.0f', n)
end

local function reply(code, ...)
  return {code, now, last, incarnation, kept, reached, resumed, ...}
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
  local stamp = integer(last)
  redis.call('XADD', KEYS[2], stamp .. '-0', 'k', kind, 'n', name, 'b', before or '', 'a', after or '',
    'mb', meta_before or '', 'ma', meta_after or '')
  redis.call('HSET', KEYS[1], 'last', stamp)
  if time[2] % LOG_LOOK == 0 and redis.call('XLEN', KEYS[2]) > LOG_MAX + LOG_SLACK then
    redis.call('XTRIM', KEYS[2], 'MAXLEN', LOG_MAX)
    local first = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)[1][1]
    redis.call('HSET', KEYS[1], trimmed_field, integer(tonumber(string.match(first, '^%d+')) - 1))
  end
end

-- Whether a stamp is of those that a server may have given before it was started, and does not have: of this shard, or of
-- `any`, as the version of a reader. A server loses what it wrote last: what another shard had at a stamp is there.
local function in_doubt(stamp, any)
  if stamp >= resumed then
    return false
  elseif stamp > (any and reached or kept) then
    return true
  end
  for own, all, after in string.gmatch(clock[6] or '', '(%d+)%-(%d+)%-(%d+)') do
    if stamp > tonumber(any and all or own) and stamp < tonumber(after) then
      return true
    end
  end
  return false
end

-- Up to where the log is gone for a reader that wants stamps from `first` on, and why.
local function gone(first, trimmed)
  local upto, why = tonumber(trimmed or '0'), 'trimmed'
  local lost = tonumber(redis.call('HGET', KEYS[1], 'lost') or '0')
  if lost > upto then
    upto, why = lost, 'lost'
  end
  if first > upto and in_doubt(first - 1, true) then
    upto, why = first, 'forgotten'
  end
  return {upto, why}
end

local seen = tonumber(ARGV[1])
if last < seen or in_doubt(seen, false) then
  return reply('LOST')
end
