-- KEYS: clock, log. ARGV: .., .., newest stamp of any shard, run of the server, newest stamp that this server had of any shard
-- when it was started. Called for all shards after boot.lua, before any script that writes is known: so no shard gives
-- stamps that are in doubt in another.
raise(tonumber(ARGV[3]))
if tonumber(ARGV[5]) > reached and redis.call('HGET', KEYS[1], 'run') == ARGV[4] then
  redis.call('HSET', KEYS[1], 'reached', integer(tonumber(ARGV[5])))
end
return reply('OK')
