-- KEYS: clock, log, actors, meta, deletions. ARGV: .., .., key, expected tick, spec, meta or '', '1' if it is to go
local key, spec, meta = ARGV[3], ARGV[5], ARGV[6]
local before = find(KEYS[3], key)
if not before then
  return reply('NOTFOUND')
end
local a = decode(before)
if not a then
  return reply('VERSION')
end
if a.tick ~= tonumber(ARGV[4]) then
  return reply('CONFLICT')
end
local meta_before = redis.call('HGET', KEYS[4], key) or ''
if a.spec == spec and meta_before == meta then
  return reply('OK', before, meta)
end
a.spec = spec
if ARGV[7] ~= '' then
  redis.call('ZADD', KEYS[5], 'NX', now, key)
else
  redis.call('ZREM', KEYS[5], key)
end
if meta == '' then
  redis.call('HDEL', KEYS[4], key)
else
  redis.call('HSET', KEYS[4], key, meta)
end
return reply('OK', write(KEYS[3], key, before, a, meta_before, meta), meta)
