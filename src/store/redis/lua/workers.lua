-- KEYS: clock, log, workers
return reply('OK', redis.call('HGETALL', KEYS[3]))
