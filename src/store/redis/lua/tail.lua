-- What the log has of actors from the stamp `start` on, for a list that undoes everything from `first` on: how far the
-- log is gone, the first stamp not looked at or 0, and of each entry: stamp, name, whether it was there afterwards,
-- record and metadata before.
local function tail(start, first)
  local upto = gone(tonumber(first), redis.call('HGET', KEYS[1], trimmed_field))
  local entries, more = scan(start)
  local found = {}
  for _, entry in ipairs(entries) do
    local fields, n = entry[2], #found
    if fields[2] == 'a' then
      found[n + 1], found[n + 2], found[n + 3] = string.match(entry[1], '^%d+'), fields[4], fields[8] ~= '' and 1 or 0
      found[n + 4], found[n + 5] = fields[6], fields[10]
    end
  end
  return {upto, more, found}
end
