-- KEYS: clock, log, actors, meta, leases. ARGV: .., .., key, epoch, owner, phase, desired, activity, status, yields or ''
-- What was committed already is the same call again: its reply was lost.
local key, owner, phase, desired, status = ARGV[3], ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[9]
local before = find(KEYS[3], key)
if not before then
  return reply('NOTFOUND')
end
local meta = redis.call('HGET', KEYS[4], key) or ''
local a = decode(before)
if not a then
  return reply('VERSION')
end
if a.epoch ~= tonumber(ARGV[4]) then
  return reply('FENCED')
end
if not a.owner then
  if a.phase == phase and a.desired == desired and a.status == status then
    return reply('OK', before, meta)
  end
  return reply('FENCED')
end
if a.owner ~= owner then
  return reply('FENCED')
end
a.phase, a.desired, a.status, a.yields = phase, desired, status, ARGV[10] ~= ''
a.activity = math.max(a.activity, tonumber(ARGV[8]))
if not transitional(phase) then
  a.owner, a.deadline, a.boot, a.yields = nil, nil, false, false
  redis.call('ZREM', KEYS[5], key)
end
return reply('OK', write(KEYS[3], key, before, a, meta, meta), meta)
