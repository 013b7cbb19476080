-- KEYS: clock, log, leases. ARGV: .., .., limit. Those that ended, and after how long the next one does; '': there is none.
local held = redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. integer(now), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
return reply('OK', redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, tonumber(ARGV[3])),
  held[2] and tonumber(held[2]) - now or '')
