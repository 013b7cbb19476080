#!/bin/bash
# guard.sh [node]: a control plane, or with `node` a whole cluster, for as long as its starter lives, however that ends. Takes a free E2E_ID of 3..7, starts
# e2e/cluster, prints the id, then reads process ids to end, one a line. At the end of its input (the starter is gone) it
# ends those that still run in the cluster's folder (a node agent cleans up, so they are asked first), and removes the cluster. Start it with setsid: a signal to the
# starter's group is not for it.
set -u
here=$(cd "$(dirname "$0")" && pwd)
cluster=$here/../cluster
trap '' INT TERM HUP

id=
for try in 7 6 5 4 3; do
  dir=/var/tmp/agent-substrate-cluster$try
  exec 9>"/var/lock/agent-substrate-cluster-$try"
  flock -n 9 || continue
  # One that is up without a lock is somebody's own, or its guard was killed.
  [ ! -e "/run/netns/e2e$try-switch" ] || [ -e "$dir/guarded" ] || continue
  id=$try
  break
done
[ -n "$id" ] || { echo "guard: no free cluster among 3..7" >&2; exit 1; }
export E2E_ID=$id E2E_DIR=$dir E2E_CONTROL_PLANE_ONLY=1
group=control-plane
[ "${1:-}" != node ] || { group=cluster; unset E2E_CONTROL_PLANE_ONLY; }
log=$(mktemp)
# The set-up of the tests leaves the build of it running: this waits for its end.
if ! { "$here/../setup.sh" $group && "$cluster/up.sh"; } >"$log" 2>&1 </dev/null 9>&-; then
  cat "$log" >&2
  rm -f "$log"
  "$cluster/down.sh" --purge
  exit 1
fi
rm -f "$log"
touch "$dir/guarded"
echo "$id"
pids=()
while read -r pid; do pids+=("$pid"); done
# Its number may be somebody else's by now.
ours() { tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline" | grep -qF "$dir/"; }
for pid in "${pids[@]}"; do ! ours "$pid" || kill "$pid"; done
for pid in "${pids[@]}"; do
  for _ in {1..100}; do ours "$pid" || break; sleep .1; done
  ! ours "$pid" || kill -9 "$pid"
done
"$cluster/down.sh" --purge
