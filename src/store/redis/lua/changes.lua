-- KEYS: clock, log. ARGV: .., .., floor, first tick, limit, field of the trim mark
raise(tonumber(ARGV[3]))
local upto = gone(tonumber(ARGV[4]), redis.call('HGET', KEYS[1], ARGV[6]))
return reply('OK', upto, redis.call('XRANGE', KEYS[2], ARGV[4] .. '-0', '+', 'COUNT', tonumber(ARGV[5])))
