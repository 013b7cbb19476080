-- KEYS: clock, log, documents
return reply('OK', redis.call('HGETALL', KEYS[3]))
