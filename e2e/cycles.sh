#!/usr/bin/env bash
#
# Wakes and suspends actors in four loops, so many times in all, and says whether anything has grown meanwhile: memory, open files,
# files on the node, network namespaces, control groups, mounts and processes, at a tenth of the way and at its end.
#
#   e2e/cycles.sh BIN_DIR [CYCLES]
#
#   BIN_DIR  directory of the binaries ate and kubectl-ate (target/release)
#   CYCLES   10000 without it
#
# Exit code 1 when something has grown. Everything it makes lies in target/cycles and ends with it; the logs stay there.

set -euo pipefail

readonly golden_timeout=60s slots=4

die() { printf 'cycles: %s\n' "$*" >&2; exit 1; }

[ $# = 1 ] || [ $# = 2 ] || { sed -n '3,/^$/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
readonly cycles=${2:-10000}
[[ $cycles =~ ^[0-9]{2,7}$ ]] || die "CYCLES: not a number from 10 on: $cycles"
. "$(dirname "${BASH_SOURCE[0]}")/dev.sh"
samples=$e2e/../config/samples

clean_up() {
  local status=$?
  trap - EXIT
  set +e
  dev_end
  [ "$status" = 0 ] || die "failed after $SECONDS s; logs: $logs"
}

dev_prepare "$1" "$1/../cycles"
dev_testserver
dev_start
image=$("$bin/ate" image pack "$rootfs" "$dir/image" -- /testserver)
actors=()
for n in {0..7}; do
  actors+=("cycle-$n")
  printf -- '---\n'
  sed "s|name: alice|name: cycle-$n|" "$samples/actor.yaml"
done >"$dir/actors.yaml"
sed "s|@IMAGE@|$image|" "$samples/actortemplate.yaml" |
  kubectl apply -f - -f "$samples/workerpool.yaml" -f "$dir/actors.yaml" >"$dir/apply.log"
kubectl wait --for=condition=Ready actortemplates --all --timeout="$golden_timeout" >>"$dir/apply.log"
/usr/bin/python3 "$e2e/cycles.py" --state "$state" --run "$run" --router "$router" --api "$api" \
  --actors "${actors[@]}" --slots "$slots" --cycles "$cycles" 9>&-
