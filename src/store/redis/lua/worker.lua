-- The bytes of a worker as codec/worker.rs writes them.
local WORKER = '>BBI7I5I6I6I6c16Hc0Hc0'
local NOBODY = string.rep('\0', 16)
local FREE, CLAIMED = 0, 1

local function decode(bytes)
  if string.byte(bytes, 1) ~= 2 then
    return nil
  end
  local _, phase, tick, writes, created, epoch, deadline, uid, actor, node, at = struct.unpack(WORKER, bytes)
  return {
    phase = phase, tick = tick, writes = writes, created = created, epoch = epoch, deadline = deadline, uid = uid,
    actor = actor, node = node, rest = string.sub(bytes, at),
    -- Under which node the index of the free has it.
    free_on = phase == FREE and node or nil,
  }
end

local function encode(w)
  return struct.pack(WORKER, 2, w.phase, w.tick, w.writes, w.created, w.epoch, w.deadline, w.uid, #w.actor,
    w.actor, #w.node, w.node) .. w.rest
end

-- Stamps, stores and logs a changed worker and keeps the index of the free ones; returns its bytes.
local function write(workers, free, pool, key, before, w)
  w.tick = next_tick()
  w.writes = w.writes + 1
  local after = encode(w)
  redis.call('HSET', workers, key, after)
  if w.free_on then
    redis.call('ZREM', free, w.free_on .. '\0' .. key)
  end
  if w.phase == FREE then
    redis.call('ZADD', free, '0', w.node .. '\0' .. key)
  end
  log('w', pool .. '\0' .. key, before, after)
  return after
end
