-- KEYS: clock, log, documents. ARGV: .., .., key
return reply('OK', redis.call('HGET', KEYS[3], ARGV[3]) or '')
