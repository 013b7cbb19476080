-- KEYS: clock, log, workers, free, holders. ARGV: .., .., pool, key, uid, epoch
local pool, key = ARGV[3], ARGV[4]
local before = redis.call('HGET', KEYS[3], key)
if not before then
  return reply('OK')
end
local w = decode(before)
if not w then
  return reply('VERSION')
end
if w.uid ~= ARGV[5] or w.epoch > tonumber(ARGV[6]) then
  return reply('OK')
end
redis.call('HDEL', KEYS[5], w.uid)
w.actor, w.uid, w.epoch, w.deadline = '', NOBODY, 0, 0
if w.phase == CLAIMED then
  w.phase = FREE
end
write(KEYS[3], KEYS[4], pool, key, before, w)
return reply('OK')
