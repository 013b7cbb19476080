-- KEYS: clock, log. Called before any other script on a server that knows none: it was started, or took another's place.
-- Stamps above those that it has may have been given before, to whom nobody here knows. So it goes on from well above
-- them, and whoever comes with one from between is told that writes were lost.
local MARGIN = 10 * 1000 * 4096
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or ''
if redis.call('HGET', KEYS[1], 'run') ~= run then
  redis.call('HSET', KEYS[1], 'run', run)
  if last > 0 then
    local before = last
    -- What the start before this one left in doubt is over.
    if resumed > 0 then
      local lost = tonumber(redis.call('HGET', KEYS[1], 'lost') or '0')
      redis.call('HSET', KEYS[1], 'lost', integer(math.max(lost, resumed - 1)))
    end
    raise(math.max((now - ORIGIN) * 4096, last) + MARGIN)
    redis.call('HSET', KEYS[1], 'kept', integer(before), 'resumed', integer(last))
  end
end
return reply('OK')
