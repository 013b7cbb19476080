-- KEYS: clock, log, actors, leases. ARGV: .., .., owner
-- Owners that are processes of one replica have their first four bytes in common.
local owner, ended = ARGV[3], 0
for _, key in ipairs(redis.call('ZRANGE', KEYS[4], 0, -1)) do
  local before = find(KEYS[3], key)
  local a = before and decode(before)
  if a and a.owner and a.owner ~= owner and string.sub(a.owner, 1, 4) == string.sub(owner, 1, 4) and a.deadline > now then
    a.deadline = now
    replace(KEYS[3], key, before, encode(a))
    redis.call('ZADD', KEYS[4], integer(now), key)
    ended = ended + 1
  end
end
return reply('OK', ended)
