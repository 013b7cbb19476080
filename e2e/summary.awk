# Sums up the output of `cargo test`, which reports each test binary on its own: why tests failed, one line
# for all, and where the time went.

BEGIN { SAID = 8 }

/^ +Running |^ +Doc-tests / { binary = $0; sub(/^ +(Running|Doc-tests) /, "", binary); sub(/ \([^()]*\)$/, "", binary) }

/^test .* \.\.\. FAILED$/ { failures = failures "  " $2 "\n" }

# What failed tests said: from each panic to its stack.
/^---- .* stdout ----$/ { words = words "\n" $2 "\n" }
/^thread .* panicked at / { said = SAID }
/^stack backtrace:|^note: run with|^$/ { said = 0 }
said-- > 0 { words = words "  " substr($0, 1, 400) "\n" }

/^test result: / {
  passed += number_before("passed")
  failed += number_before("failed")
  skipped += number_before("ignored")
  seconds = $NF
  sub(/s$/, "", seconds)
  seconds += 0
  if (seconds > slowest) { slowest = seconds; where = binary }
}

END {
  if (failures != "") printf "\nfailed:\n%s%s", failures, words
  if (slowest > 0) printf "\nslowest test binary: %s, %s s\n", where, slowest
  printf "%d passed, %d failed%s\n", passed, failed, skipped ? ", " skipped " skipped" : ""
}

# number_before("passed") in `test result: ok. 3 passed; 0 failed; ...` is 3.
function number_before(word,   i) {
  for (i = 2; i <= NF; i++) if ($i == word ";") return $(i - 1)
  return 0
}
