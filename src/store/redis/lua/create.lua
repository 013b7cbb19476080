-- KEYS: clock, log, actors, meta, leases, count, flat. ARGV: .., .., key, namespace, name, record, meta
-- The same uid again is the same call again: its reply was lost.
local key, namespace, name, bytes, meta = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local a = decode(bytes)
if not a then
  return reply('VERSION')
end
local existing = find(KEYS[3], key)
if existing then
  local e = decode(existing)
  if e and e.uid == a.uid then
    return reply('OK', existing, redis.call('HGET', KEYS[4], key) or '')
  end
  return reply('EXISTS')
end
local flat = bit.band(a.flags, FLAT) ~= 0
if flat and redis.call('HEXISTS', KEYS[7], name) == 1 then
  return reply('EXISTS')
end
a.tick = next_tick()
a.writes = 1
bytes = encode(a)
redis.call('ZADD', KEYS[3], '0', key .. '\0' .. bytes)
if meta ~= '' then
  redis.call('HSET', KEYS[4], key, meta)
end
if a.owner then
  redis.call('ZADD', KEYS[5], a.deadline, key)
end
if flat then
  redis.call('HSET', KEYS[7], name, namespace)
end
redis.call('HINCRBY', KEYS[6], namespace, 1)
log('a', key, '', bytes, '', meta)
return reply('OK', bytes, meta)
