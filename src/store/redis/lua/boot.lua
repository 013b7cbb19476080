-- KEYS: clock, log. Called before any other script on a server that knows none: it was started, or took another's place.
-- Stamps above those that it has may have been given before, to whom nobody here knows. So it goes on from well above
-- them, and whoever comes with one from between is told that writes were lost. Then comes booted.lua.
local MARGIN = 10 * 1000 * 4096
-- Starts before this one that are remembered. What older ones left in doubt counts as lost.
local STARTS = 8
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or ''
if redis.call('HGET', KEYS[1], 'run') ~= run then
  redis.call('HSET', KEYS[1], 'run', run)
  if last > 0 then
    if resumed > 0 then
      local doubts = {integer(kept) .. '-' .. integer(reached) .. '-' .. integer(resumed)}
      for doubt in string.gmatch(clock[6] or '', '%S+') do
        doubts[#doubts + 1] = doubt
      end
      if #doubts > STARTS then
        local lost = tonumber(redis.call('HGET', KEYS[1], 'lost') or '0')
        local oldest = tonumber(string.match(table.remove(doubts), '%d+$'))
        redis.call('HSET', KEYS[1], 'lost', integer(math.max(lost, oldest - 1)))
      end
      redis.call('HSET', KEYS[1], 'doubts', table.concat(doubts, ' '))
    end
    kept = last
    raise(math.max((now - ORIGIN) * 4096, last) + MARGIN)
    resumed = last
    redis.call('HSET', KEYS[1], 'kept', integer(kept), 'reached', integer(kept), 'resumed', integer(resumed))
  end
end
return reply('OK', run)
