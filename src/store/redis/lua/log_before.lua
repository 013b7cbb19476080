-- KEYS: clock, log. ARGV: .., .., newest stamp to undo, first one, kind, field of the trim mark, prefix, after or '',
-- last name or ''
trimmed_field = ARGV[6]
last = math.min(last, tonumber(ARGV[3]))
return reply('OK', undo(ARGV[5], ARGV[4], ARGV[7], ARGV[8], ARGV[9]))
