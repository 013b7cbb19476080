#!/usr/bin/env bash
#
# Shows actors in real sandboxes sleep, free their worker, and wake with memory and files intact; then moves 50 of them
# over 4 slots with one kill -9 of everything in the middle, and says whether anything was lost.
#
#   e2e/demo.sh BIN_DIR
#
#   BIN_DIR  directory of the binaries ate and kubectl-ate (target/debug)
#
# Everything it makes lies in target/demo and ends with it; the logs stay there. Exit code 0 when nothing was lost.

set -euo pipefail

readonly golden_timeout=60s actors=50 slots=4
readonly zone=default.actors.resources.substrate.ate.dev

die() { printf 'demo: %s\n' "$*" >&2; exit 1; }

[ $# = 1 ] || { sed -n '3,/^$/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
. "$(dirname "${BASH_SOURCE[0]}")/dev.sh"
samples=$e2e/../config/samples

bold= dim= plain=
if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; fi

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

clean_up() {
  local status=$?
  trap - EXIT
  set +e
  note "ending ate dev"
  dev_end
  echo "logs: $logs"
  if [ "$status" = 0 ]; then printf '%sdone in %s s%s\n' "$bold" "$SECONDS" "$plain"; else die "failed after $SECONDS s"; fi
}

dev_prepare "$1" "$1/../demo"

title "1. Everything on this machine: store, API, node agent, controller, router"
command_line "ate dev --dir target/demo/state --router $router --api $api"
dev_start
grep -E '^(start|ready) ' "$log"

title "2. A Python server from Debian's packages becomes a template; four workers wait for its actors"
command_line 'image=$(config/samples/counter/pack.sh target/demo/images/counter)'
image=$("$samples/counter/pack.sh" "$dir/images/counter" "$bin/ate" 2>"$dir/pack.log") || { cat "$dir/pack.log" >&2; die "cannot pack the image"; }
note "$image"
command_line 'sed "s|@IMAGE@|$image|" config/samples/actortemplate.yaml | kubectl apply -f - -f config/samples/workerpool.yaml'
sed "s|@IMAGE@|$image|" "$samples/actortemplate.yaml" | kubectl apply -f - -f "$samples/workerpool.yaml"
show kubectl wait --for=condition=Ready workerpool/pool actortemplate/counter --timeout="$golden_timeout" || {
  kubectl describe workerpool/pool actortemplate/counter >&2
  die "no workers or no golden snapshot; why is above"
}
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
kubectl ate suspend alice bob >/dev/null

title "6. $actors actors over $slots slots, with one kill -9 of everything in the middle"
command_line "for n in \$(seq -w $actors); do sed \"s/name: alice/name: actor-\$n/\" config/samples/actor.yaml; echo ---; done | kubectl create -f - -o name | wc -l"
for n in $(seq -w "$actors"); do sed "s/name: alice/name: actor-$n/" "$samples/actor.yaml"; echo ---; done | kubectl create -f - -o name | wc -l
dev_processes load --actors "$actors" --slots "$slots" --router "$router" --api "$api" --pid "$pid_file" \
  --log "$log" --result "$dir/result.json" --already "$SECONDS" -- "${dev[@]}"

title "Nothing was lost: every actor went on at or after its last acknowledged suspend"
