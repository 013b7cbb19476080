-- KEYS: clock, log, leases. ARGV: .., .., limit
return reply('OK', redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, tonumber(ARGV[3])))
