-- KEYS: clock, log, count. ARGV: .., .., namespace
return reply('OK', tonumber(redis.call('HGET', KEYS[3], ARGV[3]) or '0'))
