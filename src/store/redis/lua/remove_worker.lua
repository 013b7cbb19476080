-- KEYS: clock, log, workers, free, holders, pools. ARGV: .., .., pool, key
local pool, key = ARGV[3], ARGV[4]
local before = redis.call('HGET', KEYS[3], key)
if not before then
  return reply('OK')
end
local w = decode(before)
if not w then
  return reply('VERSION')
end
if w.actor ~= '' then
  return reply('OK')
end
redis.call('HDEL', KEYS[3], key)
redis.call('ZREM', KEYS[4], w.node .. '\0' .. key)
if redis.call('HLEN', KEYS[3]) == 0 then
  redis.call('SREM', KEYS[6], pool)
end
next_tick()
log('w', pool .. '\0' .. key, before, '')
return reply('OK')
