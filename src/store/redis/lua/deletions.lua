-- KEYS: clock, log, deletions, leases. ARGV: .., .., limit
-- Where a deletion has begun there is a lease. So many are looked at, the oldest first.
local MOST = 1000
local limit, due = tonumber(ARGV[3]), {}
for _, key in ipairs(redis.call('ZRANGE', KEYS[3], 0, MOST - 1)) do
  if #due < limit and not redis.call('ZSCORE', KEYS[4], key) then
    due[#due + 1] = key
  end
end
return reply('OK', due)
