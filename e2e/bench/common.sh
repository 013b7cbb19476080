# A cluster of a script's own, and the numbers that it found. Sourced by e2e/bench/api.sh and e2e/bench/pods.sh, which set `parts`:
#
#   cluster_begin [node]        starts a cluster, without a node or with one: sets id, cluster (its folder), KUBECONFIG
#   cluster_end                 removes it; without this call it goes when the script is gone, however that ends
#   until_ok WHAT COMMAND...    within 100 s
#   part NAME                   whether it is measured
#   note                        numbers, a line of JSON each, from standard input
#   print NAME VALUE UNIT [BOUND]    a number, at most BOUND
#   keep FILE                   all numbers into a report
#
# Whatever is started to stay must not have fd 8: the cluster goes when nobody has it.

e2e=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
found=$(mktemp)

die() { printf 'bench: %s\n' "$*" >&2; exit 1; }

cluster_begin() {
  local words
  words=$(mktemp -d)
  mkfifo "$words/in" "$words/out"
  setsid "$e2e/aggregated/guard.sh" "$@" <"$words/in" >"$words/out" &
  guard=$!
  disown "$guard"
  exec 8>"$words/in" 7<"$words/out"
  read -r id <&7 || die "no cluster: e2e/setup.sh cluster"
  rm -rf "$words"
  cluster=/var/tmp/agent-substrate-cluster$id
  export KUBECONFIG=$cluster/kubeconfig KUBECACHEDIR=$cluster/kubecache
}

cluster_end() {
  rm -f "$found"
  exec 8>&-
  [ -z "${guard:-}" ] || timeout 60 tail --pid="$guard" -f /dev/null
}

until_ok() {
  local deadline=$((SECONDS + 100))
  until "${@:2}" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || die "$1 is not there within 100 s: ${*:2}"
    sleep 0.1
  done
}

# It says so where it is, for some take minutes.
part() {
  [[ " $parts " == *" $1 "* ]] || return 1
  printf '%s (after %d s)\n' "$1" "$SECONDS"
}

note() { tee -a "$found" | "$e2e/bench/numbers.py" show; }

print() {
  /usr/bin/python3 -c 'import json, sys
name, value, unit, *bound = sys.argv[1:]
met = float(value) <= float(bound[0]) if bound else None
print(json.dumps({"name": name, "value": float(value), "unit": unit, "target": f"<= {bound[0]}" if bound else None, "ok": met}))' "$@" | note
}

keep() { "$e2e/bench/numbers.py" keep "$1" <"$found"; }
