-- KEYS: clock, log, actors, meta. ARGV: .., .., floor, min, max, limit
raise(tonumber(ARGV[3]))
local members = redis.call('ZRANGEBYLEX', KEYS[3], ARGV[4], ARGV[5], 'LIMIT', 0, tonumber(ARGV[6]))
local metas = {}
if redis.call('EXISTS', KEYS[4]) == 1 then
  for i, member in ipairs(members) do
    metas[i] = redis.call('HGET', KEYS[4], string.match(member, '^[^%z]*%z[^%z]*')) or ''
  end
end
return reply('OK', members, metas)
