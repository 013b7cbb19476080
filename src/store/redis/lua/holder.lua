-- KEYS: clock, log, workers, holders. ARGV: .., .., actor
local key = redis.call('HGET', KEYS[4], ARGV[3])
if not key then
  return reply('NONE')
end
return reply('OK', redis.call('HGET', KEYS[3], key), key)
