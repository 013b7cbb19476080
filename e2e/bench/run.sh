#!/usr/bin/env bash
#
# Measures against the targets, each beside its like within this run where there is one: what bare runsc needs for a server
# that holds 64 or 256 MiB, and what the same server needs as an actor through the router; wakes and suspends of several in loops
# at once, and what wakes at once take; actors of two containers; actors of many templates in turn, so that no sandbox created ahead fits;
# wakes from S3 by a node that has nothing; store round trips and bytes; what a node agent with many idle slots takes.
#
#   e2e/bench/run.sh BIN_DIR
#
#   BIN_DIR  directory of the binaries ate and kubectl-ate (target/release)
#
# Prints each number with its target and ok or MISS; writes bench.json beside BIN_DIR. Exit code 0 also with a MISS.
# BENCH_WAKES says how many wakes of each size, and of each loop, are measured (100).

set -euo pipefail

readonly sizes=(64 256) actors=(alice bob) loops=(loop-0 loop-1 loop-2 loop-3) slots=4
readonly wakes=${BENCH_WAKES:-100} templates=20 idle_slots=50 cold_wakes=9 golden_timeout=120s
readonly idle=0.25 # seconds between a sleep and a wake that is measured, with and without us

die() { printf 'bench: %s\n' "$*" >&2; exit 1; }

[ $# = 1 ] || { sed -n '3,/^$/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
. "$(dirname "${BASH_SOURCE[0]}")/../dev.sh"

clean_up() {
  local status=$?
  trap - EXIT
  set +e
  dev_end
  [ -z "${s3_server:-}" ] || kill "$s3_server" 2>/dev/null
  [ "$status" = 0 ] || die "failed; logs: $logs"
}

dev_prepare "$1" "$1/../bench"
dev_testserver

for mib in "${sizes[@]}"; do
  echo "bare runsc: $wakes wakes of a server that holds $mib MiB"
  "$e2e/bench/baseline.sh" -n "$wakes" -m "$mib" -i "$idle" "$rootfs" /testserver >"$dir/baseline-$mib.json"
done

echo "bare runsc: ${#loops[@]} loops of a server that holds ${sizes[0]} MiB at once"
pids=()
for n in "${loops[@]}"; do
  "$e2e/bench/baseline.sh" -n "$wakes" -m "${sizes[0]}" -l "$rootfs" /testserver >"$dir/$n.json" 9>&- &
  pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid" || die "a loop of bare runsc failed"; done

echo "bare runsc: ${#loops[@]} wakes at once of a server that holds ${sizes[0]} MiB"
mkdir -p "$dir/together"
rm -f "$dir/together"/*
pids=()
for n in "${loops[@]}"; do
  "$e2e/bench/baseline.sh" -n "$wakes" -m "${sizes[0]}" -i "$idle" -t "$dir/together:${#loops[@]}" "$rootfs" /testserver >"$dir/together-$n.json" 9>&- &
  pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid" || die "a wake of bare runsc failed"; done

echo "store: bytes of 100,000 sleeping actors"
(cd "$e2e/.." && cargo test --features failpoints --lib store::redis::tests::numbers -- --nocapture) >"$dir/store.txt" 2>&1 9>&- ||
  die "the store's measurement failed: $(tail -n 5 "$dir/store.txt")"

# objects: the pool; an actor for each size and each loop, of one template; one of two containers, one whose snapshots are in S3; the others, each of a template of its own.
objects() {
  local n samples=$e2e/../config/samples
  cat "$samples/workerpool.yaml"
  printf -- '---\n'
  sed "s|@IMAGE@|$image|" "$samples/actortemplate.yaml"
  for n in "${actors[@]}" "${loops[@]}"; do
    printf -- '\n---\n'
    sed "s|name: alice|name: $n|" "$samples/actor.yaml"
  done
  printf -- '\n---\n'
  sed -e "s|@IMAGE@|$image|" -e 's|name: counter|name: pair|' -e '/^  containers:/a\
    - name: beside\
      image: "'"$image"'"\
      env:\
        - name: PORT\
          value: "8081"' "$samples/actortemplate.yaml"
  printf -- '\n---\n'
  sed -e "s|name: alice|name: pair|" -e "s|name: counter|name: pair|" "$samples/actor.yaml"
  printf -- '\n---\n'
  sed -e "s|@IMAGE@|$image|" -e 's|name: counter|name: cold|' -e 's|^spec:|&\n  snapshotsConfig:\n    location: s3://bench|' "$samples/actortemplate.yaml"
  printf -- '\n---\n'
  sed -e "s|name: alice|name: cold|" -e "s|name: counter|name: cold|" "$samples/actor.yaml"
  for n in "${mixed[@]}"; do
    printf -- '\n---\n'
    sed -e "s|@IMAGE@|$image|" -e "s|name: counter|name: $n|" -e "s|image: .*|&\n      workingDir: /$n|" "$samples/actortemplate.yaml"
    printf -- '\n---\n'
    sed -e "s|name: alice|name: $n|" -e "s|name: counter|name: $n|" "$samples/actor.yaml"
  done
}

echo "through the router: $wakes wakes of the same server as an actor, $templates templates in turn, and ${#loops[@]} loops at once"
mixed=()
for ((n = 0; n < templates; n++)); do
  mixed+=("mixed-$n")
  mkdir -p "$rootfs/mixed-$n"
done
mkdir -p "$dir/s3"
rm -rf "$dir/s3/bench"
mkdir "$dir/s3/bench"
s3=127.0.0.1:$(/usr/bin/python3 -c 'import socket
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    print(probe.getsockname()[1])')
export AWS_ACCESS_KEY_ID=bench AWS_SECRET_ACCESS_KEY=$RANDOM$RANDOM$RANDOM AWS_REGION=us-east-1
ROOT_ACCESS_KEY=$AWS_ACCESS_KEY_ID ROOT_SECRET_KEY=$AWS_SECRET_ACCESS_KEY versitygw --port "$s3" posix "$dir/s3" >"$dir/s3.log" 2>&1 9>&- &
s3_server=$!
dev+=(--s3-endpoint "http://$s3")
dev_start
image=$("$bin/ate" image pack "$rootfs" "$dir/image" -- /testserver)
objects | kubectl apply -f - >"$dir/apply.log"
kubectl wait --for=condition=Ready actortemplates --all --timeout="$golden_timeout" >>"$dir/apply.log"
/usr/bin/python3 "$e2e/bench/report.py" --state "$state" --run "$run" --router "$router" --api "$api" \
  --actors "${actors[@]}" --pair pair --mib "${sizes[@]}" --mixed "${mixed[@]}" --loops "${loops[@]}" --slots "$slots" --wakes "$wakes" --idle "$idle" \
  --baselines "$dir" --store "$dir/store.txt" --demo "$bin/../demo/result.json" \
  --out "$bin/../bench.json" 9>&-

# more NAME ARGUMENT...: numbers of another script.
more() {
  /usr/bin/python3 "$e2e/bench/$1.py" --state "$state" --run "$run" --api "$api" "${@:2}" 9>&- >"$dir/$1.json"
  "$e2e/bench/numbers.py" show <"$dir/$1.json"
  "$e2e/bench/numbers.py" keep "$bin/../bench.json" <"$dir/$1.json"
}

echo
echo "from S3 by a node that has nothing, $cold_wakes times"
more cold --router "$router" --actor cold --mib "${sizes[0]}" --slots "$slots" --wakes "$cold_wakes" \
  --bucket "$dir/s3/bench" --s3 "http://$s3" --baseline "$dir/baseline-${sizes[0]}.json"

echo
echo "$idle_slots idle slots"
kubectl scale workerpool/pool --replicas="$idle_slots" >>"$dir/apply.log"
more idle --slots "$idle_slots"
