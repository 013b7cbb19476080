# Sums up the output of `cargo test`, which reports each test binary on its own: one line for all, and where the time went.

/^ +Running |^ +Doc-tests / { binary = $0; sub(/^ +(Running|Doc-tests) /, "", binary); sub(/ \([^()]*\)$/, "", binary) }

/^test .* \.\.\. FAILED$/ { failures = failures "  " $2 "\n" }

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
  if (failures != "") printf "\nfailed:\n%s", failures
  if (slowest > 0) printf "\nslowest test binary: %s, %s s\n", where, slowest
  printf "%d passed, %d failed%s\n", passed, failed, skipped ? ", " skipped " skipped" : ""
}

# number_before("passed") in `test result: ok. 3 passed; 0 failed; ...` is 3.
function number_before(word,   i) {
  for (i = 2; i <= NF; i++) if ($i == word ";") return $(i - 1)
  return 0
}
