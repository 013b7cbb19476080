-- KEYS: clock, log, workers, free, pools. ARGV: .., .., pool, key, phase, node, rest, created
local pool, key, phase = ARGV[3], ARGV[4], tonumber(ARGV[5])
local before = redis.call('HGET', KEYS[3], key)
local w
if before then
  w = decode(before)
  if not w then
    return reply('VERSION')
  end
  if phase == FREE and w.actor ~= '' then
    phase = CLAIMED
  end
  if w.phase == phase and w.node == ARGV[6] and w.rest == ARGV[7] then
    return reply('OK', before)
  end
else
  w = {writes = 0, created = tonumber(ARGV[8]), epoch = 0, deadline = 0, uid = NOBODY, actor = ''}
  redis.call('SADD', KEYS[5], pool)
end
w.phase, w.node, w.rest = phase, ARGV[6], ARGV[7]
return reply('OK', write(KEYS[3], KEYS[4], pool, key, before, w))
