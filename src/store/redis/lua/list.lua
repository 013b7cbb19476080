-- KEYS: clock, log, actors, meta. ARGV: .., .., floor, min, max, limit, first stamp to undo, prefix, after or ''
raise(tonumber(ARGV[3]))
local limit = tonumber(ARGV[6])
local members = redis.call('ZRANGEBYLEX', KEYS[3], ARGV[4], ARGV[5], 'LIMIT', 0, limit)
local metas, key = {}, ''
local has_metas = redis.call('EXISTS', KEYS[4]) == 1
for i, member in ipairs(members) do
  key = string.match(member, '^[^%z]*%z[^%z]*')
  metas[i] = has_metas and redis.call('HGET', KEYS[4], key) or ''
end
local upto = #members == limit and key or ''
local total = redis.call('ZLEXCOUNT', KEYS[3], ARGV[4], ARGV[5])
return reply('OK', members, metas, total, undo('a', ARGV[7], ARGV[8], ARGV[9], upto))
