-- Entries of the log that one call looks at.
local SCAN = 1000

-- Entries of the log from the stamp `start` on, and the first stamp not looked at or 0.
local function scan(start)
  local entries = redis.call('XRANGE', KEYS[2], start .. '-0', integer(last), 'COUNT', SCAN)
  local more = 0
  if #entries == SCAN then
    more = tonumber(string.match(entries[SCAN][1], '^%d+')) + 1
  end
  return entries, more
end
