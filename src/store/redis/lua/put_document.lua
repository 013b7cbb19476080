-- KEYS: clock, log, documents. ARGV: .., .., key, expected tick or '', body, 1 to remove, field of the trim mark
-- A document is stored as its tick in 7 bytes and its body.
local key, expected, body, remove = ARGV[3], ARGV[4], ARGV[5], ARGV[6] == '1'
trimmed_field = ARGV[7]
local stored = redis.call('HGET', KEYS[3], key)
local tick, before = nil, ''
if stored then
  tick = struct.unpack('>I7', stored)
  before = string.sub(stored, 8)
end
if expected == '' and stored then
  return reply('EXISTS')
elseif expected ~= '' and not stored then
  return reply('NOTFOUND')
elseif expected ~= '' and tonumber(expected) ~= tick then
  return reply('CONFLICT')
elseif stored and before == body and not remove then
  return reply('OK', tick)
elseif remove and not stored then
  return reply('NOTFOUND')
end
local stamp = next_tick()
if remove then
  redis.call('HDEL', KEYS[3], key)
else
  redis.call('HSET', KEYS[3], key, struct.pack('>I7', stamp) .. body)
end
-- The image before does not say its own stamp.
log('d', key, before, remove and '' or body, tick and integer(tick) or '')
return reply('OK', stamp)
