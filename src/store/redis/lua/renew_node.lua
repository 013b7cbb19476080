-- KEYS: clock, log, nodes. ARGV: .., .., node, address, lease in ms, runtime or '', bytes of cache, spool, capacity
local lease = now + tonumber(ARGV[5])
redis.call('HSET', KEYS[3], ARGV[3], integer(lease) .. ' ' .. table.concat({ARGV[4], ARGV[6], ARGV[7], ARGV[8], ARGV[9]}, ' '))
return reply('OK', lease)
