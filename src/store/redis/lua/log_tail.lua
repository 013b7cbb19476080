-- KEYS: clock, log. ARGV: .., .., stamp to read from, first stamp that the list undoes
return reply('OK', tail(ARGV[3], ARGV[4]))
