-- KEYS: clock, log, workers, free, holders. ARGV: .., .., pool, actor, uid, epoch, deadline, 1 for only on the nodes that follow
local pool, actor, uid, epoch, deadline = ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])
if now > deadline then
  return reply('FENCED')
end
local held = redis.call('HGET', KEYS[5], uid)
if held then
  local bytes = redis.call('HGET', KEYS[3], held)
  local w = decode(bytes)
  if not w then
    return reply('VERSION')
  end
  if w.epoch == epoch then
    return reply('OK', bytes, held)
  end
  return reply(w.epoch > epoch and 'FENCED' or 'CONFLICT')
end
local member
if ARGV[8] == '1' then
  local at = 9
  while ARGV[at] and not member do
    local node = ARGV[at]
    member = redis.call('ZRANGEBYLEX', KEYS[4], '[' .. node .. '\0', '(' .. node .. '\1', 'LIMIT', '0', '1')[1]
    at = at + 1
  end
else
  member = redis.call('ZRANDMEMBER', KEYS[4])
end
if not member then
  return reply('NONE')
end
local key = string.match(member, '^[^%z]*%z(.*)$')
local before = redis.call('HGET', KEYS[3], key)
local w = decode(before)
if not w then
  return reply('VERSION')
end
w.phase, w.actor, w.uid, w.epoch, w.deadline = CLAIMED, actor, uid, epoch, deadline
redis.call('HSET', KEYS[5], uid, key)
return reply('OK', write(KEYS[3], KEYS[4], pool, key, before, w), key)
