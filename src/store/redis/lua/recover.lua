-- KEYS: clock, log. ARGV: 0, .., floor, incarnation. The caller saw stamps that this shard has lost: none of them
-- is given again, and whoever watches from below lists anew.
raise(tonumber(ARGV[3]))
local lost = math.max(tonumber(redis.call('HGET', KEYS[1], 'lost') or '0'), tonumber(ARGV[3]))
redis.call('HSET', KEYS[1], 'lost', integer(lost), 'incarnation', ARGV[4])
incarnation = tonumber(ARGV[4])
return reply('OK')
