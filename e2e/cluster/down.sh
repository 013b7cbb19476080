#!/bin/bash
# down.sh [--purge | NODE]: stops the cluster of up.sh and removes what it left on the
# machine; --purge: its folder too. With NODE (number or name): only that node, as if
# it lost power; its disk stays, and `up.sh NODE` starts it again.
set -u
here=$(cd "$(dirname "$0")" && pwd)
id=${E2E_ID:-0} dir=${E2E_DIR:-/var/tmp/agent-substrate-cluster${E2E_ID:-0}} net=e2e${E2E_ID:-0}
case ${1:-} in '' | --purge) nodes=$(seq 9) ;; *) nodes=${1##*-node} nodes=${nodes:-1} ;; esac
for k in $nodes; do
  s=${k#1} ns=$net${s:+-${k#1}}
  ip -n "$net-switch" link del "node$k" 2>/dev/null # first: nobody is told that the node's connections end
  for _ in {1..100}; do # with the first process of its pid namespace all of the node dies
    pids=$(ip netns pids "$ns" 2>/dev/null) && [ -n "$pids" ] || break
    kill -9 $pids 2>/dev/null
    sleep .05
  done
  ip netns del "$ns" 2>/dev/null
  for c in /sys/fs/cgroup/*/"$ns"; do
    for _ in {1..100}; do # until the last of its processes is gone
      [ -d "$c" ] && ! find "$c" -depth -type d -exec rmdir {} + 2>/dev/null || break
      sleep .05
    done
  done
  rm -f "$dir/pid$s"
done
case ${1:-} in '' | --purge) ip link del "$net" 2>/dev/null; ip netns del "$net-switch" 2>/dev/null ;; esac
[ "${1:-}" != --purge ] || rm -rf "$dir"
