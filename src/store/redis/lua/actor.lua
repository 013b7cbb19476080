-- The bytes of an actor as codec/actor.rs writes them. Members of the sorted set are namespace \0 name \0 record.
local ACTOR = '>BBBBI5I3I7I5I6c16'
local LEASE = '>c8I6'
local FLAT, LEASED, BOOTS, YIELDS = 1, 2, 4, 8

local function find(actors, key)
  local member = redis.call('ZRANGEBYLEX', actors, '[' .. key .. '\0', '(' .. key .. '\1', 'LIMIT', '0', '1')[1]
  if member then
    return string.sub(member, #key + 2)
  end
end

local function decode(bytes)
  if string.byte(bytes, 1) ~= 5 then
    return nil
  end
  local _, phase, desired, flags, epoch, takeovers, tick, writes, activity, uid, at = struct.unpack(ACTOR, bytes)
  local owner, deadline, spec
  if bit.band(flags, LEASED) ~= 0 then
    owner, deadline, at = struct.unpack(LEASE, bytes, at)
  end
  spec, at = struct.unpack('>Hc0', bytes, at)
  -- Made at once: a table that grows is made anew with every doubling.
  return {
    phase = phase, desired = desired, flags = flags, boot = bit.band(flags, BOOTS) ~= 0,
    yields = bit.band(flags, YIELDS) ~= 0, epoch = epoch, takeovers = takeovers, tick = tick, writes = writes, activity = activity, uid = uid,
    owner = owner, deadline = deadline, spec = spec, status = string.sub(bytes, at),
  }
end

local function encode(a)
  local flags = bit.band(a.flags, bit.bnot(LEASED + BOOTS + YIELDS))
  if a.boot then
    flags = bit.bor(flags, BOOTS)
  end
  if a.yields then
    flags = bit.bor(flags, YIELDS)
  end
  local lease = ''
  if a.owner then
    flags = bit.bor(flags, LEASED)
    lease = struct.pack(LEASE, a.owner, a.deadline)
  end
  return struct.pack(ACTOR, 5, a.phase, a.desired, flags, a.epoch, a.takeovers, a.tick, a.writes, a.activity, a.uid)
    .. lease .. struct.pack('>Hc0', #a.spec, a.spec) .. a.status
end

local function replace(actors, key, before, after)
  redis.call('ZREM', actors, key .. '\0' .. before)
  redis.call('ZADD', actors, '0', key .. '\0' .. after)
end

-- Stamps, stores and logs a changed actor; returns its bytes.
local function write(actors, key, before, a, meta_before, meta_after)
  a.tick = next_tick()
  a.writes = a.writes + 1
  local after = encode(a)
  replace(actors, key, before, after)
  log('a', key, before, after, meta_before, meta_after)
  return after
end

local function transitional(phase)
  return phase == 1 or phase == 3 or phase == 4
end
