-- KEYS: clock, log. ARGV: .., .., first stamp
return reply('OK', tail(ARGV[3]))
