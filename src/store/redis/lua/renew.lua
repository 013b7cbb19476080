-- KEYS: clock, log, actors, meta, leases. ARGV: .., .., key, epoch, owner, lease in ms
local key = ARGV[3]
local before = find(KEYS[3], key)
if not before then
  return reply('NOTFOUND')
end
local a = decode(before)
if not a then
  return reply('VERSION')
end
if a.epoch ~= tonumber(ARGV[4]) or a.owner ~= ARGV[5] then
  return reply('FENCED')
end
a.deadline = now + tonumber(ARGV[6])
replace(KEYS[3], key, before, encode(a))
redis.call('ZADD', KEYS[5], a.deadline, key)
return reply('OK')
