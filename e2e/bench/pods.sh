#!/usr/bin/env bash
#
# Measures an installation in pods against its targets, on a cluster with one node of its own: how soon it answers, what it takes
# at rest, how a wake there compares with one of `ate dev`, and what becomes of many actors on few workers.
#
#   e2e/bench/pods.sh BIN_DIR
#
#   BIN_DIR  directory of the binaries ate and kubectl-ate (target/release)
#
# Prints each number with its target and ok or MISS, and adds them to bench.json beside BIN_DIR. Exit code 0 also with a MISS.
# BENCH_PARTS names what is measured (install scale rest ratio load; install comes first in any case), BENCH_WAKES,
# BENCH_REST_SECONDS, BENCH_LOAD_ACTORS and BENCH_LOAD_SECONDS how much (50 wakes on either side, 60 s at rest, 250 actors for 300 s).

set -euo pipefail

readonly parts=${BENCH_PARTS:-install scale rest ratio load}
readonly wakes=${BENCH_WAKES:-50} rest_seconds=${BENCH_REST_SECONDS:-60} settle_seconds=30
readonly actors=${BENCH_LOAD_ACTORS:-250} load_seconds=${BENCH_LOAD_SECONDS:-300} workers=8
readonly layout=/var/lib/ate/bench-image zone=default.actors.resources.substrate.ate.dev
readonly audited=system:serviceaccounts:ate-system

[ $# = 1 ] || { sed -n '3,/^$/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[[ " $parts " =~ \ (install|scale|rest|ratio|load)\  ]] || exit 0
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
. "$e2e/dev.sh"
samples=$e2e/../config/samples

clean_up() {
  local status=$?
  trap - EXIT
  set +e
  if [ "$status" != 0 ]; then tell >&2; fi
  dev_end
  cluster_end
  exit "$status"
}

# What everybody said last.
tell() {
  [ -n "${cluster:-}" ] || return 0
  export KUBECONFIG=$cluster/kubeconfig
  tail -n 20 "$dir/pods.log" "$log"
  kubectl get pods,workerpools,actortemplates -A -o wide
  for what in deploy/ate-controller deploy/ate-api-server deploy/atenet-router ds/atelet; do
    kubectl -n ate-system logs "$what" --tail=20 --prefix
  done
}

# --- the cluster ---------------------------------------------------------------------------------------------------------

on_node() { E2E_DIR=$cluster "$e2e/cluster/nse.sh" "$@"; }

# load_image NAME UID PROGRAM...
load_image() {
  "$e2e/image.sh" "$1" "$dir/image.tar" "${@:2}"
  on_node ctr -n k8s.io images import "$dir/image.tar"
  rm "$dir/image.tar"
}

prepare() {
  cluster_begin node
  load_image ate:0.1.0 65532 "$bin/ate" runsc nft
  load_image valkey/valkey:8.1 999 valkey-server
  load_image versity/versitygw:v1.8.0 65532 versitygw
  mkdir -p "$dir/rootfs"
  (cd "$e2e/testserver" && "$e2e/go.sh" build -o "$dir/rootfs/testserver" .)
  image=$("$bin/ate" image pack "$dir/rootfs" "$dir/image" -- /testserver)
  cp -a "$dir/image" "$cluster/root$layout"
}

# template IMAGE
template() { sed "s|@IMAGE@|$1|" "$samples/actortemplate.yaml"; }

# as KIND NAME: from standard input, an object with another name.
as() { sed "s/name: $1\$/name: $2/"; }

since() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN { print b - a }'; }

# There are no volumes for the store and the S3 server here.
install() {
  local began=$EPOCHREALTIME
  helm install substrate-crds "$e2e/../charts/substrate-crds" --namespace ate-system --create-namespace
  helm install substrate "$e2e/../charts/substrate" --namespace ate-system \
    --set store.bundled.persistence.enabled=false --set objects.bundled.persistence.enabled=false
  template "oci-layout:$layout@${image##*@}" | kubectl apply -f - -f "$samples/workerpool.yaml"
  until_ok "the API" kubectl apply -f "$samples/actor.yaml"
  service=$(kubectl -n ate-system get service atenet-router -o 'jsonpath={.spec.clusterIP}'):80
  until_ok "an answer" curl -sf -m 60 -H "Host: alice.$zone" "http://$service/"
  installed=$(since "$began")
}

# --- the parts -----------------------------------------------------------------------------------------------------------

# numbers VERB [OPTION]...: e2e/bench/pods.py on the installation.
numbers() {
  /usr/bin/python3 "$e2e/bench/pods.py" "$1" --state "$cluster" --router "$service" --api "10.199.$id.2:6443" "${@:2}" 8>&- 9>&- | note
}

# ready WHAT CONDITION NAME: how long that takes from $began on.
ready() {
  kubectl wait "$1" --for="$2" --timeout=100s >>"$dir/pods.log"
  print "$3" "$(since "$began")" s
}

scale() {
  local began=$EPOCHREALTIME
  as pool more <"$samples/workerpool.yaml" | sed 's/replicas: 4/replicas: 1/' | kubectl apply -f - >>"$dir/pods.log"
  ready workerpool/more condition=Ready "in pods: a pool of one worker to Ready"
  began=$EPOCHREALTIME
  template "oci-layout:$layout@${image##*@}" | as counter again | as pool more | kubectl apply -f - >>"$dir/pods.log"
  ready actortemplate/again condition=Ready "in pods: a template to Ready"
  began=$EPOCHREALTIME
  kubectl scale workerpool/more --replicas=3 >>"$dir/pods.log"
  ready workerpool/more 'jsonpath={.status.ready}=3' "in pods: a pool from one worker to three"
  kubectl delete actortemplate/again workerpool/more >>"$dir/pods.log"
}

ratio() {
  kubectl ate suspend alice >>"$dir/pods.log"
  dev_start 8>&-
  template "$image" | kubectl apply -f - -f "$samples/workerpool.yaml" -f "$samples/actor.yaml" >>"$dir/pods.log"
  kubectl wait --for=condition=Ready actortemplate/counter --timeout=120s >>"$dir/pods.log"
  KUBECONFIG=$cluster/kubeconfig
  numbers ratio --dev-state "$state" --dev-router "$router" --dev-api "$api" --wakes "$wakes"
  dev_end
}

load() {
  local n
  kubectl scale workerpool/pool --replicas="$workers" >>"$dir/pods.log"
  kubectl wait workerpool/pool --for="jsonpath={.status.ready}=$workers" --timeout=100s >>"$dir/pods.log"
  for n in $(seq "$actors"); do as alice "crowd-$n" <"$samples/actor.yaml"; echo ---; done | kubectl create -f - >>"$dir/pods.log"
  numbers load --actors "$actors" --slots "$workers" --seconds "$load_seconds"
}

dev_prepare "$1" "$1/../bench"
export PATH=$PATH:/usr/local/go/bin E2E_AUDIT=$audited

echo "an installation in pods"
{ prepare; install; } >"$dir/pods.log" 2>&1
print "in pods: helm install to the first answered request" "$installed" s 15
if part scale; then scale; fi
if part rest; then numbers rest --id "$id" --settle "$settle_seconds" --seconds "$rest_seconds"; fi
if part ratio; then ratio; fi
if part load; then load; fi
keep "$bin/../bench.json"
