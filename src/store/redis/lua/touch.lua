-- KEYS: clock, log, actors. ARGV: .., .., key, time
local key = ARGV[3]
local before = find(KEYS[3], key)
if not before then
  return reply('NOTFOUND')
end
local a = decode(before)
if not a then
  return reply('VERSION')
end
local at = tonumber(ARGV[4])
if at > a.activity then
  a.activity = at
  replace(KEYS[3], key, before, encode(a))
end
return reply('OK')
