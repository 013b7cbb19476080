-- KEYS: clock, log, actors, meta. ARGV: .., .., floor, min, max, limit, first stamp of the log that is not known yet,
-- first stamp to undo
raise(tonumber(ARGV[3]))
local limit = tonumber(ARGV[6])
local members = redis.call('ZRANGEBYLEX', KEYS[3], ARGV[4], ARGV[5], 'LIMIT', 0, limit)
local metas = {}
local has_metas = redis.call('EXISTS', KEYS[4]) == 1
for i, member in ipairs(members) do
  metas[i] = has_metas and redis.call('HGET', KEYS[4], string.match(member, '^[^%z]*%z[^%z]*')) or ''
end
local total = redis.call('ZLEXCOUNT', KEYS[3], ARGV[4], ARGV[5])
return reply('OK', members, metas, total, tail(ARGV[7], ARGV[8]))
