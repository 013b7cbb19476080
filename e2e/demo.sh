#!/usr/bin/env bash
#
# Shows actors in real sandboxes sleep, free their worker, and wake with memory and files intact; then moves 50 of them
# over 4 slots with one kill -9 of everything in the middle, and says whether anything was lost.
#
#   e2e/demo.sh BIN_DIR
#
#   BIN_DIR  directory of the binaries ate and kubectl-ate (target/release)
#
# Everything it makes lies in target/demo and ends with it; the logs stay there. Exit code 0 when nothing was lost.

set -euo pipefail

readonly ready_seconds=60 golden_timeout=120s stop_seconds=60 actors=50 slots=4
readonly zone=default.actors.resources.substrate.ate.dev

die() { printf 'demo: %s\n' "$*" >&2; exit 1; }

[ $# = 1 ] || { sed -n '3,/^$/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ "$(id -u)" = 0 ] || die "run as root: sandboxes and network namespaces need it"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=$(cd "$1" && pwd) || die "no directory $1: cargo build --release --bins"
[ -x "$bin/ate" ] || die "no $bin/ate: cargo build --release --bins"
samples=$here/../config/samples
mkdir -p "$bin/../demo"
dir=$(cd "$bin/../demo" && pwd)
number=$(printf '%s' "$dir" | cksum | cut -d ' ' -f 1)
# Sockets need short paths; the same directory for the same place, so that a later run finds what an earlier one left.
readonly state=$dir/state run=/run/ate-demo-$number pid_file=$dir/ate-dev.pid log=$dir/ate-dev.log
export PATH=$bin:$PATH:/usr/local/bin:/usr/sbin:/sbin # kubectl finds its plugin kubectl-ate on PATH

bold= dim= plain=
if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; fi

# --- what a reader sees ---------------------------------------------------------------------------------------------

title() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
note() { printf '%s%s%s\n' "$dim" "$*" "$plain"; }
command_line() { printf '%s$ %s%s\n' "$bold" "$*" "$plain"; }
show() { command_line "$@"; "$@"; }

# visit NAME: a request to an actor, and how long it took.
visit() {
  command_line "curl -H 'Host: $1.$zone' http://$router/"
  curl --silent --show-error --fail-with-body --max-time 40 --write-out "$dim  %{time_total} s$plain\n" \
    -H "Host: $1.$zone" "http://$router/" | paste -s -d ''
}

# --- ate dev, and its end -------------------------------------------------------------------------------------------

# One demo at a time in this directory; what another one left behind after a kill -9 is ours to end.
exec 9>"$dir.lock"
flock -n 9 || die "another demo runs in $dir: wait for its end"

processes() { /usr/bin/python3 "$here/demo_load.py" "$1" --state "$state" --run "$run" "${@:2}" 9>&-; }

end_it() {
  local pid
  pid=$(cat "$pid_file" 2>/dev/null) || pid=
  if [ -n "$pid" ] && grep -qzF -- "$state" "/proc/$pid/cmdline" 2>/dev/null; then
    kill -TERM "$pid"
    timeout "$stop_seconds" tail --pid="$pid" -f /dev/null || true
  fi
  processes kill || true
  rm -f "$pid_file"
}

clean_up() {
  local status=$?
  trap - EXIT
  set +e
  note "ending ate dev"
  end_it
  rm -rf "$dir/logs"
  mv "$state/logs" "$dir/logs" 2>/dev/null
  mv "$log" "$dir/logs/" 2>/dev/null
  rm_state
  echo "logs: $dir/logs"
  if [ "$status" = 0 ]; then printf '%sdone in %s s%s\n' "$bold" "$SECONDS" "$plain"; else printf 'demo: failed after %s s\n' "$SECONDS" >&2; fi
  exit "$status"
}

# Nothing of ours is left mounted after a clean end; after a kill there may be.
rm_state() {
  local mount
  while read -r mount; do umount --lazy "$mount"; done < <(awk -v a="$state/" -v b="$run/" \
    'index($2, a) == 1 || index($2, b) == 1 { print $2 }' /proc/mounts | sort -r)
  rm -rf --one-file-system "$state" "$run"
}

# free_ports: HOST:PORT of the router, and of three ports in a row for the API; not those that connections are made from.
free_ports() {
  /usr/bin/python3 - <<'PYTHON'
import random, socket, sys

def free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            return True
        except OSError:
            return False

for port in random.sample(range(18000, 30000), 200):
    if all(free(p) for p in range(port, port + 4)):
        print(f"127.0.0.1:{port} 127.0.0.1:{port + 1}")
        sys.exit()
sys.exit("no free ports")
PYTHON
}

start() {
  read -r router api < <(free_ports)
  dev=("$bin/ate" dev --dir "$state" --run-dir "$run" --router "$router" --api "$api" --subnet "10.$((100 + number % 100)).0.0/16")
  command_line "ate dev --dir target/demo/state --router $router --api $api"
  setsid "${dev[@]}" </dev/null >>"$log" 2>&1 9>&- &
  local pid=$! deadline=$((SECONDS + ready_seconds))
  echo "$pid" >"$pid_file"
  until grep -q '^ready ' "$log"; do
    kill -0 "$pid" 2>/dev/null || die "ate dev ended: $(tail -n 1 "$log")"
    [ "$SECONDS" -lt "$deadline" ] || die "ate dev is not ready within $ready_seconds s: $(tail -n 1 "$log")"
    sleep 0.05
  done
  grep -E '^(start|ready) ' "$log"
  export KUBECONFIG=$state/kubeconfig
}

# --- the acts -------------------------------------------------------------------------------------------------------

end_it
rm_state
rm -rf "$dir/logs" "$log"
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

title "1. Everything on this machine: store, API, node agent, controller, router"
start

title "2. A Python server from Debian's packages becomes a template; four workers wait for its actors"
command_line 'image=$(config/samples/counter/pack.sh target/demo/images/counter)'
image=$("$samples/counter/pack.sh" "$dir/images/counter" "$bin/ate" 2>"$dir/pack.log") || { cat "$dir/pack.log" >&2; die "cannot pack the image"; }
note "$image"
command_line 'sed "s|@IMAGE@|$image|" config/samples/actortemplate.yaml | kubectl apply -f - -f config/samples/workerpool.yaml'
sed "s|@IMAGE@|$image|" "$samples/actortemplate.yaml" | kubectl apply -f - -f "$samples/workerpool.yaml"
show kubectl wait --for=condition=Ready actortemplate/counter --timeout="$golden_timeout"
show kubectl get workerpools,actortemplates

title "3. Two actors: the first request to each wakes it"
command_line "kubectl create -f config/samples/actor.yaml   # alice; and bob"
kubectl create -f "$samples/actor.yaml"
sed 's/name: alice/name: bob/' "$samples/actor.yaml" | kubectl create -f -
visit alice
visit alice
visit bob
show kubectl get actors,workers

title "4. They sleep: memory and files go to the snapshot store, their workers are free"
show kubectl ate suspend alice bob
show kubectl get actors,workers

title "5. The next request wakes them where they left off: same process, counters go on"
visit alice
visit bob
kubectl ate suspend alice bob

title "6. $actors actors over $slots slots, with one kill -9 of everything in the middle"
command_line "for n in \$(seq -w $actors); do sed \"s/name: alice/name: actor-\$n/\" config/samples/actor.yaml; echo ---; done | kubectl create -f - -o name | wc -l"
for n in $(seq -w "$actors"); do sed "s/name: alice/name: actor-$n/" "$samples/actor.yaml"; echo ---; done | kubectl create -f - -o name | wc -l
processes load --actors "$actors" --slots "$slots" --router "$router" --api "$api" --pid "$pid_file" --log "$log" -- "${dev[@]}"

title "Nothing was lost: every actor went on at or after its last acknowledged suspend"
