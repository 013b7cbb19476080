-- KEYS: clock, log, nodes. ARGV: .., .., node
redis.call('HDEL', KEYS[3], ARGV[3])
return reply('OK')
