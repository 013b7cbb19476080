-- KEYS: clock, log, actors, meta, leases, count, flat, deletions. ARGV: .., .., key, namespace, name, epoch, owner
local key, namespace, name = ARGV[3], ARGV[4], ARGV[5]
local before = find(KEYS[3], key)
if not before then
  return reply('NOTFOUND')
end
local a = decode(before)
if not a then
  return reply('VERSION')
end
if a.epoch ~= tonumber(ARGV[6]) or a.owner ~= ARGV[7] then
  return reply('FENCED')
end
local meta = redis.call('HGET', KEYS[4], key) or ''
redis.call('ZREM', KEYS[3], key .. '\0' .. before)
redis.call('HDEL', KEYS[4], key)
redis.call('ZREM', KEYS[5], key)
redis.call('ZREM', KEYS[8], key)
if redis.call('HINCRBY', KEYS[6], namespace, -1) <= 0 then
  redis.call('HDEL', KEYS[6], namespace)
end
if bit.band(a.flags, FLAT) ~= 0 then
  redis.call('HDEL', KEYS[7], name)
end
next_tick()
log('a', key, before, '', meta, '')
return reply('OK')
