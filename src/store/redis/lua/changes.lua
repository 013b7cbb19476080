-- KEYS: clock, log. ARGV: .., .., floor, first tick, limit, field of the trim mark
raise(tonumber(ARGV[3]))
local marks = redis.call('HMGET', KEYS[1], ARGV[6], 'lost')
local gone = math.max(tonumber(marks[1] or '0'), tonumber(marks[2] or '0'))
return reply('OK', gone, redis.call('XRANGE', KEYS[2], ARGV[4] .. '-0', '+', 'COUNT', tonumber(ARGV[5])))
