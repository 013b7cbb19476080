-- KEYS: clock, log, nodes
return reply('OK', redis.call('HGETALL', KEYS[3]))
