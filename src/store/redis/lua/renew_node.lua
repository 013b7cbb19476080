-- KEYS: clock, log, nodes. ARGV: .., .., node, address, lease in ms
local lease = now + tonumber(ARGV[5])
redis.call('HSET', KEYS[3], ARGV[3], integer(lease) .. ' ' .. ARGV[4])
return reply('OK', lease)
