-- KEYS: clock, log, actors, meta. ARGV: .., .., key
local key = ARGV[3]
local bytes = find(KEYS[3], key)
if not bytes then
  return reply('NOTFOUND')
end
return reply('OK', bytes, redis.call('HGET', KEYS[4], key) or '')
