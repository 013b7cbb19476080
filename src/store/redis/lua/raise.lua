-- KEYS: clock, log. ARGV: .., .., floor
raise(tonumber(ARGV[3]))
return reply('OK')
