#!/usr/bin/env bash
#
# Measures against the targets, each as a ratio within this run where it can be one: what bare runsc needs for a server
# that holds 64 MiB, and what the same server needs as an actor through the router; store round trips and bytes.
#
#   e2e/bench/run.sh BIN_DIR
#
#   BIN_DIR  directory of the binaries ate and kubectl-ate (target/release)
#
# Prints each number with its target and ok or MISS; writes bench.json beside BIN_DIR. Exit code 0 also with a MISS.
# BENCH_WAKES says how many wakes are measured (30).

set -euo pipefail

readonly mib=64 wakes=${BENCH_WAKES:-30} golden_timeout=120s

die() { printf 'bench: %s\n' "$*" >&2; exit 1; }

[ $# = 1 ] || { sed -n '3,/^$/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
. "$(dirname "${BASH_SOURCE[0]}")/../dev.sh"

clean_up() {
  local status=$?
  trap - EXIT
  set +e
  dev_end
  [ "$status" = 0 ] || die "failed; logs: $logs"
}

dev_prepare "$1" "$1/../bench"
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
export PATH=$PATH:/usr/local/go/bin

rootfs=$dir/rootfs
mkdir -p "$rootfs"
(cd "$e2e/testserver" && "$e2e/go.sh" build -o "$rootfs/testserver" .)

echo "bare runsc: $wakes wakes of a server that holds $mib MiB"
"$e2e/bench/baseline.sh" -n "$wakes" -m "$mib" "$rootfs" /testserver >"$dir/baseline.json"

echo "store: bytes of 100,000 sleeping actors"
(cd "$e2e/.." && cargo test --features failpoints --lib store::redis::tests::numbers -- --nocapture) >"$dir/store.txt" 2>&1 9>&- ||
  die "the store's measurement failed: $(tail -n 5 "$dir/store.txt")"

echo "through the router: $wakes wakes of the same server as an actor"
dev_start
image=$("$bin/ate" image pack "$rootfs" "$dir/image" -- /testserver)
sed -e "s|@IMAGE@|$image|" "$e2e/../config/samples/actortemplate.yaml" |
  kubectl apply -f - -f "$e2e/../config/samples/workerpool.yaml" -f "$e2e/../config/samples/actor.yaml" >"$dir/apply.log"
kubectl wait --for=condition=Ready actortemplate/counter --timeout="$golden_timeout" >>"$dir/apply.log"
/usr/bin/python3 "$e2e/bench/report.py" --state "$state" --run "$run" --router "$router" --api "$api" --actor alice \
  --mib "$mib" --wakes "$wakes" --baseline "$dir/baseline.json" --store "$dir/store.txt" --demo "$bin/../demo/result.json" \
  --out "$bin/../bench.json" 9>&-
