#!/usr/bin/env bash
#
# Measures the API against its targets: on a control plane of its own, through kube-apiserver beside what is built in, and
# straight at our server; the store with a million actors; who watches everything.
#
#   e2e/bench/api.sh BIN_DIR
#
#   BIN_DIR  directory of the binaries ate and ate-bench (cargo build --release --bins --features bench)
#
# Prints each number with its target and ok or MISS, and adds them to bench.json beside BIN_DIR. Exit code 0 also with a MISS.
# BENCH_PARTS names what is measured (get watch streams controller million wake), BENCH_ACTORS, BENCH_CACHED and
# BENCH_SECONDS how much (1000000 actors in the store, 100000 in the controller's cache, 60 s of watching).

set -euo pipefail

readonly parts=${BENCH_PARTS:-get streams watch wake controller million}
readonly actors=${BENCH_ACTORS:-1000000} few=10000 cached=${BENCH_CACHED:-100000} seconds=${BENCH_SECONDS:-60}
readonly growth=1.2 settle_seconds=45 settle_most=150

[ $# = 1 ] || { sed -n '3,/^$/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
[ "$(id -u)" = 0 ] || die "run as root: the control plane needs network namespaces"
bin=$(cd "$1" 2>/dev/null && pwd) || die "no directory $1: cargo build --release --bins --features bench"
[ -x "$bin/ate-bench" ] || die "no $bin/ate-bench: cargo build --release --bins --features bench"
load=$bin/ate-bench

# --- processes -----------------------------------------------------------------------------------------------------------

clean_up() {
  local status=$?
  trap - EXIT
  set +e
  if [ "$status" != 0 ] && [ -n "${dir:-}" ]; then tail -n 20 "$dir"/log/ate.log "$dir"/log/setup.log >&2; fi
  cluster_end
  exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# start NAME COMMAND...: in the background, until the guard or `stop` ends it; its id is in $started.
start() {
  "${@:2}" </dev/null >>"$dir/log/$1.log" 2>&1 8>&- &
  started=$!
  disown "$started"
  echo "$started" >&8
}

stop() {
  kill "$1"
  timeout 30 tail --pid="$1" -f /dev/null || die "process $1 does not end"
}

free_port() {
  /usr/bin/python3 -c 'import socket, sys
with socket.socket() as probe:
    probe.bind((sys.argv[1], 0))
    print(probe.getsockname()[1])' "$1"
}

# valkey NAME SETTING...: a server; its URL is in $store, its port in $store_port.
valkey() {
  mkdir -p "$dir/$1"
  store_port=$(free_port 127.0.0.1) store=redis://127.0.0.1:$store_port
  start "$1" valkey-server --port "$store_port" --bind 127.0.0.1 --dir "$dir/$1" --save '' --set-proc-title no "${@:2}"
  until_ok valkey-server valkey-cli -p "$store_port" ping
}

# api OPTION...: our API server on $store, at $rest; its process is $ate.
api() {
  start ate "$bin/ate" apiserver --listen "$host:$rest" --listen-grpc "$host:$grpc" --store "$store" \
    --kubeconfig "$dir/ours/kubeconfig" --tls-ca "$dir/ours/ca.crt" --tls-cert "$dir/ours/apiserver.crt" \
    --tls-key "$dir/ours/apiserver.key" "$@"
  ate=$started
  until_ok "ate apiserver" curl -ksf "https://$host:$rest/readyz"
}

# --- what an installation does -----------------------------------------------------------------------------------------

install() {
  local service names token
  rest=$(free_port "$host") grpc=$(free_port "$host")
  names=(ate-apiserver.ate-system.svc api.ate-system.svc apiserver "$host")
  "$load" certificates "$dir/ours" "${names[@]}"
  kubectl apply -f "$e2e/../crds"
  kubectl apply -k "$e2e/../config/apiserver"
  kubectl apply -k "$e2e/../config/rbac"
  # Our pods are processes on the host: whoever keeps endpoints must not look for pods.
  for service in ate-apiserver api; do
    kubectl -n ate-system patch service "$service" --type=json -p '[{"op": "remove", "path": "/spec/selector"}]'
  done
  kubectl patch apiservice v1alpha1.runtime.ate.dev --type=merge \
    -p "{\"spec\": {\"caBundle\": \"$(base64 -w0 "$dir/ours/ca.crt")\"}}"
  token=$(kubectl -n ate-system create token ate-apiserver)
  sed "s/^users:.*/users: [{name: user, user: {token: $token}}]/" "$KUBECONFIG" >"$dir/ours/kubeconfig"
  # As a pod there has it: its own namespace is where it keeps notes.
  kubectl --kubeconfig "$dir/ours/kubeconfig" config set-context --current --namespace ate-system
  kubectl create namespace bench
}

# route [yes]: whether Kubernetes finds our API server.
route() {
  local subsets='[]'
  [ $# = 0 ] || subsets="[{addresses: [{ip: $host}], ports: [{name: https, port: $rest}]}]"
  printf 'apiVersion: v1\nkind: Endpoints\nmetadata: {name: ate-apiserver, namespace: ate-system}\nsubsets: %s\n' "$subsets" |
    kubectl apply -f - >>"$dir/log/setup.log" 2>&1
  [ $# = 0 ] || until_ok "the API" kubectl get actors -n bench
}

# --- the parts -----------------------------------------------------------------------------------------------------------

# resident PID: MiB
resident() { awk '/^VmRSS:/ { printf "%.1f\n", $2 / 1024 }' "/proc/$1/status"; }

# settled PID: waits until its memory stays, at least for as long as it takes to look for new kinds; prints it in MiB.
settled() {
  local began=$SECONDS before now=0 same=0
  while [ $((SECONDS - began)) -lt "$settle_most" ]; do
    sleep 2
    before=$now now=$(resident "$1")
    same=$(awk -v a="$before" -v b="$now" -v n="$same" 'BEGIN { d = a > b ? a - b : b - a; print d * 100 <= b ? n + 1 : 0 }')
    [ "$same" -lt 6 ] || [ $((SECONDS - began)) -lt "$settle_seconds" ] || break
  done
  echo "$now"
}

# gets PORT: GET per second, the median of three: they differ by a fifth.
gets() {
  for _ in 1 2 3; do
    valkey-benchmark -p "$1" -t get -c 50 -n 200000 --csv | awk -F '"' '$2 == "GET" { print $4 }'
  done | sort -n | sed -n 2p
}

# wake NAME FSYNC SETTING...: on a server of its own, for an API server beside it would ask nodes for the
# sandboxes that these wakes pretend. A rewrite of its file would be measured, or not, by chance.
wake() (
  name=$1 fsync=$2
  shift 2
  valkey "$name" --auto-aof-rewrite-percentage 0 "$@"
  "$load" wake --store "$store" --gets "$(gets "$store_port")" --fsync "$fsync" | note
  stop "$started"
)

# shown: whether kube-apiserver's discovery, which it reads from us once a minute, says that actors can be watched.
shown() {
  curl -sf --cacert "$dir/pki/ca.crt" --cert "$dir/pki/admin.crt" --key "$dir/pki/admin.key" \
    -H 'Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList' "${kube[1]}/apis" |
    /usr/bin/python3 -c 'import json, sys
groups = [g for g in json.load(sys.stdin)["items"] if g["metadata"]["name"] == "runtime.ate.dev"]
kinds = [r for g in groups for v in g["versions"] for r in v["resources"] if r["resource"] == "actors"]
sys.exit(not any("watch" in r["verbs"] for r in kinds))'
}

controller() {
  local pid hidden shown
  pid=$(pgrep -f "kube-controller-manager --kubeconfig $dir/conf/") || die "no kube-controller-manager"
  "$load" seed --store "$store" --first 5000000 --count "$cached" >/dev/null
  hidden=$(settled "$pid")
  shown && die "actors can be watched although that was to be hidden"
  stop "$ate"
  api
  until_ok "watch in discovery" shown
  shown=$(settled "$pid")
  print "kube-controller-manager, $cached actors, watch hidden" "$hidden" MiB
  print "kube-controller-manager, $cached actors, watch shown" "$shown" MiB
}

million() {
  local before after
  # Not for the cluster's own caches: nobody but we ask.
  stop "$ate"
  route
  valkey million --appendonly no
  api
  "$load" seed --store "$store" --count "$few" | note
  "$load" list "${direct[@]}" --expect "$few" --rounds 20 --pid "$ate" | note
  before=$(resident "$ate")
  echo "  creating $actors actors"
  "$load" seed --store "$store" --first "$few" --count $((actors - few)) --memory | note
  "$load" list "${direct[@]}" --expect "$actors" --pid "$ate" | note
  after=$(resident "$ate")
  print "memory of the API server, $actors / $few actors" "$(awk -v a="$after" -v b="$before" 'BEGIN { print a / b }')" "" "$growth"
  stop "$ate"
}

cluster_begin
dir=$cluster host=10.199.$id.1
kube=(--url "https://10.199.$id.2:6443" --ca "$dir/pki/ca.crt" --cert "$dir/pki/admin.crt" --key "$dir/pki/admin.key")
hide=$("$bin/ate" apiserver --help | grep -o -e --hide-actor-watch || true)
{
  install
  valkey valkey --appendonly yes --appendfsync everysec
  # Until it is measured, kube-controller-manager is no watcher more.
  api $hide
  route yes
} >"$dir/log/setup.log" 2>&1
direct=(--url "https://$host:$rest" --ca "$dir/ours/ca.crt" --cert "$dir/pki/admin.crt" --key "$dir/pki/admin.key")

if part get; then "$load" get "${kube[@]}" --namespace bench | note; fi
if part streams; then "$load" streams "${direct[@]}" --store "$store" | note; fi
if part watch; then
  "$load" watch "${direct[@]}" --store "$store" --pid "$ate" --name "100 watchers, direct" --watchers 100 \
    --seconds "$seconds" --median 50 | note
  "$load" watch "${kube[@]}" --store "$store" --pid "$ate" --name "10 watchers through kube-apiserver" --watchers 10 \
    --seconds $(((seconds + 1) / 2)) --median 100 | note
fi
if part wake; then
  wake wake-memory "no file" --appendonly no
  wake wake-file "appendfsync everysec, not waited for" --appendonly yes --appendfsync everysec
fi
if part controller; then controller; fi
if part million; then million; fi
keep "$bin/../bench.json"
