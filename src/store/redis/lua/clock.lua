-- KEYS: clock, log. Reads the clock.
return reply('OK')
