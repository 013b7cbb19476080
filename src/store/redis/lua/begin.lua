-- KEYS: clock, log, actors, meta, leases. ARGV: .., .., key, edges, desired or '', owner, lease in ms, boot or '', uid or ''
-- edges: a character for each phase, above '0' by: 0 refuse, 1 take over, 2 + phase start, 8 + phase start what a transition
-- yields to, else take over.
-- Deletion is final.
local DELETED = 3
local key, lease = ARGV[3], tonumber(ARGV[7])
local before = find(KEYS[3], key)
if not before then
  return reply('NOTFOUND')
end
local meta = redis.call('HGET', KEYS[4], key) or ''
local a = decode(before)
if not a then
  return reply('VERSION')
end
-- Another actor of the same name is not the one that is meant.
if ARGV[9] ~= '' and a.uid ~= ARGV[9] then
  return reply('NOTFOUND')
end
local phase = a.phase
local edge = string.byte(ARGV[4], phase + 1) - 48
local preempts = edge >= 8 and a.yields
if a.owner and a.deadline > now and not preempts then
  return reply('HELD', before, meta)
end
if edge >= 8 then
  edge = preempts and edge - 6 or 1
end
if edge == 0 or (edge == 1 and not transitional(phase)) then
  return reply('REFUSED', before, meta)
end
a.epoch = a.epoch + 1
if edge > 1 then
  a.phase = edge - 2
  a.takeovers = 0
  a.boot, a.yields = ARGV[8] ~= '', false
else
  a.takeovers = a.takeovers + 1
  a.boot = a.boot or ARGV[8] ~= ''
end
if ARGV[5] ~= '' and a.desired ~= DELETED then
  a.desired = tonumber(ARGV[5])
end
a.owner, a.deadline = ARGV[6], now + lease
redis.call('ZADD', KEYS[5], integer(a.deadline), key)
return reply('OK', write(KEYS[3], key, before, a, meta, meta), meta, phase)
