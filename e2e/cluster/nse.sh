#!/bin/bash
# nse.sh [-n NODE] CMD...: runs a command on a node (number or name; default the first),
# that is in its namespaces.
here=$(cd "$(dirname "$0")" && pwd) n=
if [ "$1" = -n ]; then n=${2##*-node}; shift 2; fi
u=$(cat "${E2E_DIR:-/var/tmp/agent-substrate-cluster${E2E_ID:-0}}/pid${n#1}") && c=$(tr -d ' ' <"/proc/$u/task/$u/children") &&
  exec nsenter -t "$c" -m -p -n -u -i -- "$@"
