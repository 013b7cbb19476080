-- KEYS: clock, log, nodes. ARGV: .., .., node, address, lease in ms, runtime or ''
local lease = now + tonumber(ARGV[5])
redis.call('HSET', KEYS[3], ARGV[3], integer(lease) .. ' ' .. ARGV[4] .. ' ' .. ARGV[6])
return reply('OK', lease)
