-- Byte order: the server's locale decides what Lua's own comparison does.
local function precedes(a, b)
  for i = 1, math.min(#a, #b) do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then
      return x < y
    end
  end
  return #a < #b
end

-- What the log knows of the state before the stamp `first`, of a kind, of names that begin with `prefix` and come
-- after `after`: how far the log is gone, the first stamp not looked at or 0, how many of those names existed before
-- and how many after what was looked at, and for each name up to `upto` its first image: name, record, metadata.
local function undo(kind, first, prefix, after, upto)
  local upto_gone = gone(tonumber(first), redis.call('HGET', KEYS[1], trimmed_field))
  local entries, more = scan(first)
  local seen, images, existed, exist = {}, {}, 0, 0
  for _, entry in ipairs(entries) do
    local fields = entry[2]
    local name = fields[4]
    if fields[2] == kind and string.sub(name, 1, #prefix) == prefix and (after == '' or precedes(after, name)) then
      existed = existed + (fields[6] ~= '' and 1 or 0)
      exist = exist + (fields[8] ~= '' and 1 or 0)
      if not seen[name] and (upto == '' or not precedes(upto, name)) then
        seen[name] = true
        local n = #images
        images[n + 1], images[n + 2], images[n + 3] = name, fields[6], fields[10]
      end
    end
  end
  return {upto_gone, more, existed, exist, images}
end
