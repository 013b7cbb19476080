-- KEYS: clock, log, actors, meta, flat. ARGV: .., .., id
local namespace = redis.call('HGET', KEYS[5], ARGV[3])
if not namespace then
  return reply('NOTFOUND')
end
local key = namespace .. '\0' .. ARGV[3]
local bytes = find(KEYS[3], key)
if not bytes then
  return reply('NOTFOUND')
end
return reply('OK', bytes, redis.call('HGET', KEYS[4], key) or '', namespace)
