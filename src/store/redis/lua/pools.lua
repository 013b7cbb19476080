-- KEYS: clock, log, pools. ARGV: .., .., floor
raise(tonumber(ARGV[3]))
return reply('OK', redis.call('SMEMBERS', KEYS[3]))
