# Starts and ends an `ate dev` of a script's own, in a directory, on ports and in a subnet of its own. Sourced by e2e/demo.sh, e2e/cycles.sh,
# e2e/bench/run.sh and e2e/bench/pods.sh:
#
#   dev_prepare BIN_DIR DIR   ends what an earlier run left in DIR, sets dir, state, run, logs, pid_file, log, router, api, dev; from
#                             then on a signal ends the script by its EXIT trap, clean_up
#   dev_testserver            builds the tests' server into a root filesystem, sets rootfs
#   dev_start                 starts it and waits until it is ready; sets KUBECONFIG
#   dev_end                   ends it as Ctrl-C would, and by force what does not end; only the logs stay
#
# The caller defines die and clean_up, which calls dev_end.

readonly dev_ready_seconds=60 dev_stop_seconds=60
e2e=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

dev_prepare() {
  local number
  [ "$(id -u)" = 0 ] || die "run as root: sandboxes and network namespaces need it"
  bin=$(cd "$1" 2>/dev/null && pwd) || die "no directory $1: cargo build --release --bins"
  [ -x "$bin/ate" ] || die "no $bin/ate: cargo build --release --bins"
  mkdir -p "$2"
  dir=$(cd "$2" && pwd)
  # Sockets need short paths; equal directories have equal names there, so that a later run finds what an earlier one left.
  number=$(printf '%s' "$dir" | cksum | cut -d ' ' -f 1)
  state=$dir/state run=/run/ate-$number pid_file=$dir/ate-dev.pid
  logs=$state/logs log=$state/logs/ate-dev.log
  # One at a time in this directory: what else is there was left behind, and is ours to end.
  exec 9>"$dir/lock"
  flock -n 9 || die "another run uses $dir: wait for its end"
  dev_stop
  dev_remove
  rm -rf "$state"
  mkdir -p "$logs"
  export PATH=$bin:$PATH:/usr/local/bin:/usr/sbin:/sbin # kubectl finds its plugin kubectl-ate on PATH
  read -r router api < <(free_ports)
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  dev=("$bin/ate" dev --dir "$state" --run-dir "$run" --router "$router" --api "$api" --subnet "$(free_subnet "$number")")
}

dev_testserver() {
  rootfs=$dir/rootfs
  mkdir -p "$rootfs"
  (cd "$e2e/testserver" && PATH=$PATH:/usr/local/go/bin "$e2e/go.sh" build -o "$rootfs/testserver" .)
}

dev_start() {
  local pid deadline=$((SECONDS + dev_ready_seconds))
  : >"$log"
  setsid "${dev[@]}" </dev/null >>"$log" 2>&1 9>&- &
  pid=$!
  disown "$pid" # bash says nothing when it is killed
  echo "$pid" >"$pid_file"
  until grep -q '^ready ' "$log"; do
    kill -0 "$pid" 2>/dev/null || die "ate dev ended: $(tail -n 1 "$log")"
    [ "$SECONDS" -lt "$deadline" ] || die "ate dev is not ready within $dev_ready_seconds s: $(tail -n 1 "$log")"
    sleep 0.05
  done
  export KUBECONFIG=$state/kubeconfig
}

dev_end() {
  dev_stop
  dev_remove
}

dev_stop() {
  local pid
  pid=$(cat "$pid_file" 2>/dev/null) || pid=
  if [ -n "$pid" ] && grep -qzF -- "$state" "/proc/$pid/cmdline" 2>/dev/null; then
    kill -TERM "$pid"
    timeout "$dev_stop_seconds" tail --pid="$pid" -f /dev/null || true
  fi
  dev_processes kill || true
  rm -f "$pid_file"
}

# dev_processes VERB [ARGUMENT]...: e2e/demo_load.py on this ate dev.
dev_processes() { /usr/bin/python3 "$e2e/demo_load.py" "$1" --state "$state" --run "$run" "${@:2}" 9>&-; }

# After a clean end nothing of ours is mounted any more; after a kill something may be.
dev_remove() {
  local mount
  while read -r mount; do umount --lazy "$mount"; done < <(awk -v a="$state/" -v b="$run/" \
    'index($2, a) == 1 || index($2, b) == 1 { print $2 }' /proc/mounts | sort -r)
  rm -rf --one-file-system "$run"
  [ ! -d "$state" ] || find "$state" -mindepth 1 -maxdepth 1 ! -path "$logs" -exec rm -rf --one-file-system {} +
}

# free_subnet NUMBER: one of 10.100.0.0/16 to 10.189.0.0/16, from one chosen by NUMBER on, of which this machine has no address.
free_subnet() {
  local i subnet taken
  taken=$(ip -4 -o addr)
  for ((i = 0; i < 90; i++)); do
    subnet=10.$((100 + ($1 + i) % 90))
    [[ $taken == *" $subnet."* ]] || break
  done
  echo "$subnet.0.0/16"
}

# free_ports: HOST:PORT of the router, and of three ports in a row for the API; not among those that connections are made from.
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
