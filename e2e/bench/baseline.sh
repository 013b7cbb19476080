#!/usr/bin/env bash
#
# The bare baseline of our numbers: what runsc itself needs to wake a server and to put it to sleep, with nothing of ours
# around it. Same form of sandbox as ours: one container as the sandbox's root, systrap, network of its own behind a
# veth, rootfs overlay in a directory, created ahead; uncompressed image, warm in the page cache.
#
#   e2e/bench/baseline.sh [-n ITERATIONS] [-m MIB] [-p PORT] [-r ROUTE] [-t DIR:RUNS] [-l] [-i SECONDS] ROOTFS COMMAND [ARGUMENT]...
#
#   -n  measured iterations (30); three more come first and are not counted
#   -m  MiB of incompressible memory that the server holds: asked of its /mem?mb=MIB (0: not asked)
#   -p  port on which the server listens, also given to it as PORT (8080)
#   -r  what is requested to see it answer (/)
#   -t  each wake waits until so many runs, which share the directory, are as far
#   -i  how long nothing happens before each wake, as between an actor's sleep and its wake (0)
#   -l  a loop as fast as it goes: the image is not read once more before a wake so that it is warm
#
# Prints one JSON object, times in ms: for each phase the median, p95 and all samples.
#   wake   = restore, until the first byte of an answer arrives (of that http: since restore returned)
#   sleep  = pause + checkpoint + delete
#   create = a sandbox ahead, not part of a wake
# and the seconds of the clock at which the measured iterations began and ended.
#
# Needs root, runsc, ip, python3 and unshare on PATH. Leaves nothing: all of it happens in namespaces of its own.

set -euo pipefail

readonly warm_up=3 address=169.254.17.2 gateway=169.254.17.1
readonly answer_timeout=10 whole_timeout=1800 # seconds

die() { printf 'baseline: %s\n' "$*" >&2; exit 1; }
usage() { sed -n '3,/^$/s/^# \{0,1\}//p' "$0"; }

iterations=30 mib=0 port=8080 route=/ together= loop= idle=0
while getopts n:m:p:r:t:li:h option; do
  case $option in
    n) iterations=$OPTARG ;;
    m) mib=$OPTARG ;;
    p) port=$OPTARG ;;
    r) route=$OPTARG ;;
    t) together=$OPTARG ;;
    l) loop=-l ;;
    i) idle=$OPTARG ;;
    h) usage; exit ;;
    *) exit 2 ;;
  esac
done
shift $((OPTIND - 1))
[ $# -ge 2 ] || { usage >&2; exit 2; }
for number in "$iterations" "$mib" "$port"; do
  [[ $number =~ ^[0-9]{1,6}$ ]] || die "not a number: $number"
done
[[ $idle =~ ^[0-9]{1,3}(\.[0-9]{1,3})?$ ]] || die "not a number of seconds: $idle"
[ "$iterations" -ge 1 ] || die "at least one iteration"
[ -d "$1" ] || die "no directory $1"
[ "$(id -u)" = 0 ] || die "run as root: sandboxes and network namespaces need it"
for tool in runsc ip python3 unshare; do
  command -v "$tool" >/dev/null || die "no $tool on PATH: e2e/setup.sh demo installs it"
done

# Once more inside namespaces: there this process is the init that reaps dead sandboxes, and what it leaves dies with it.
if [ -z "${BASELINE_WORK:-}" ]; then
  BASELINE_WORK=$(mktemp -d -p "${TMPDIR:-/var/tmp}" --suffix=.ate-baseline)
  export BASELINE_WORK
  trap 'rm -rf "$BASELINE_WORK"' EXIT
  status=0
  timeout "$whole_timeout" unshare --mount --pid --net --fork --kill-child --mount-proc --propagation private \
    "$BASH" "$0" -n "$iterations" -m "$mib" -p "$port" -r "$route" ${together:+-t "$together"} $loop -i "$idle" "$(realpath "$1")" "${@:2}" || status=$?
  exit "$status"
fi
readonly work=$BASELINE_WORK rootfs=$1
shift

# --- the parts ------------------------------------------------------------------------------------------------------

runsc() {
  command runsc --root="$work/state" --platform=systrap --network=sandbox --ignore-cgroups \
    --overlay2="root:dir=$work/overlay" --log="$work/runsc.log" "$@" </dev/null >>"$work/out.log" 2>&1
}

# must COMMAND...: shows what the runtime said when it fails.
must() {
  "$@" && return
  tail -n 20 "$work/out.log" "$work/runsc.log" >&2 || true
  die "failed: $*"
}

network() {
  mount -t tmpfs tmpfs /run
  mkdir /run/netns
  ip link set lo up
  ip netns add inner
  ip link add outer type veth peer name eth0 netns inner
  ip address add "$gateway/30" dev outer
  ip link set outer up
  ip -n inner link set lo up
}

# A sandbox that starts takes the address and the routes off eth0, so every sandbox needs them anew.
address() {
  ip -n inner -batch - <<IP
address replace $address/30 dev eth0
link set eth0 up
route replace default via $gateway
IP
}

bundle() {
  mkdir -p "$work/bundle" "$work/state" "$work/overlay"
  python3 - "$work/bundle/config.json" "$rootfs" "$port" "$@" <<'PYTHON'
import json, sys

path, rootfs, port, *args = sys.argv[1:]
capabilities = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETGID", "CAP_SETUID"]
mounts = [
    ("/proc", "proc", "proc", ["nosuid", "noexec", "nodev"]),
    ("/dev", "tmpfs", "tmpfs", ["nosuid", "mode=755"]),
    ("/sys", "sysfs", "sysfs", ["nosuid", "noexec", "ro"]),
]
config = {
    "ociVersion": "1.2.0",
    "process": {
        "user": {"uid": 0, "gid": 0},
        "args": args,
        "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", f"PORT={port}"],
        "cwd": "/",
        "capabilities": {name: capabilities for name in ("bounding", "effective", "permitted")},
        "noNewPrivileges": True,
    },
    "root": {"path": rootfs},
    "hostname": "baseline",
    "mounts": [{"destination": d, "type": t, "source": s, "options": o} for d, t, s, o in mounts],
    "linux": {
        "namespaces": [{"type": name} for name in ("pid", "ipc", "uts", "mount")]
        + [{"type": "network", "path": "/run/netns/inner"}]
    },
}
with open(path, "w") as file:
    json.dump(config, file)
PYTHON
}

# answer ROUTE: asks until the server answers; its first byte's time is $answered, its body $body. Refusals are retried
# without delay: a process started for each try, or a pause, would be what is measured.
answer() {
  local deadline=$((SECONDS + answer_timeout)) connection line
  while [ "$SECONDS" -lt "$deadline" ]; do
    { exec {connection}<>"/dev/tcp/$address/$port"; } 2>/dev/null || continue
    printf 'GET %s HTTP/1.0\r\nHost: baseline\r\n\r\n' "$1" >&"$connection"
    if IFS= read -r -t "$answer_timeout" -u "$connection" line; then
      answered=$EPOCHREALTIME
      body=$(cat <&"$connection")
      exec {connection}>&-
      case $line in "HTTP/1."[01]" 200"*) return 0 ;; esac
    else
      exec {connection}>&-
    fi
  done
  return 1
}

# lap PHASE [TIME]: what has passed since the last lap, until TIME or now, is a sample of PHASE.
lap() {
  local now=${2:-$EPOCHREALTIME}
  [ "$round" -le "$warm_up" ] || printf '%s %s\n' "$1" $((${now/./} - ${began/./})) >>"$work/samples"
  began=$EPOCHREALTIME
}

# The test server counts its requests in memory: after a restore it must go on where it was.
count() {
  [[ $body =~ \"memory\":([0-9]+) ]] || return 0
  [ -z "${counted:-}" ] || [ "${BASH_REMATCH[1]}" = $((counted + 1)) ] || die "restored memory is not the saved one: $body after $counted"
  counted=${BASH_REMATCH[1]}
}

boot() {
  address
  must runsc create -bundle "$work/bundle" baseline-000000
  must runsc start baseline-000000
  answer "$route" || die "the server does not answer $route on port $port within $answer_timeout s: $(tail -n 3 "$work/out.log")"
  [ "$mib" = 0 ] || answer "/mem?mb=$mib" || die "the server does not answer /mem?mb=$mib"
  answer "$route"
  count
}

# meet: until all runs that are to be together have come here, this round.
meet() {
  local deadline=$((SECONDS + answer_timeout)) dir=${together%:*} here
  [ -n "$together" ] || return 0
  : >"$dir/$round-${work##*/}"
  while here=("$dir/$round-"*) && [ "${#here[@]}" -lt "${together##*:}" ]; do
    [ "$SECONDS" -lt "$deadline" ] || die "the other runs do not come"
    read -r -t 0.001 <>"$work/never" || true
  done
}

put_to_sleep() {
  local id=$1 image=$2
  began=$EPOCHREALTIME
  must runsc pause "$id"
  lap pause
  must runsc checkpoint -leave-running -image-path "$image" "$id"
  lap checkpoint
  must runsc delete -force "$id"
  lap delete
}

wake() {
  local id=$1 image=$2
  address
  began=$EPOCHREALTIME
  must runsc create -bundle "$work/bundle" "$id"
  lap create
  [ -n "$loop" ] || cat "$image"/* >/dev/null # warm
  [ "$idle" = 0 ] || read -r -t "$idle" <>"$work/never" || true
  meet
  began=$EPOCHREALTIME
  must runsc restore -detach -bundle "$work/bundle" -image-path "$image" "$id"
  lap restore
  answer "$route" || die "no answer after a restore: $(tail -n 3 "$work/out.log")"
  lap http "$answered"
  count
}

report() {
  python3 - "$work/samples" "$iterations" "$mib" "$(du -sb "$1" | cut -f 1)" "$(command runsc --version | head -n 1)" "$first" "$EPOCHREALTIME" <<'PYTHON'
import collections, json, math, statistics, sys

path, iterations, mib, image_bytes, runtime, began, ended = sys.argv[1:]
phases = collections.defaultdict(list)
for line in open(path):
    phase, microseconds = line.split()
    phases[phase].append(int(microseconds) / 1000)
phases["wake"] = [sum(parts) for parts in zip(phases["restore"], phases["http"])]
phases["sleep"] = [sum(parts) for parts in zip(phases["pause"], phases["checkpoint"], phases["delete"])]


def summary(samples):
    p95 = sorted(samples)[math.ceil(len(samples) * 0.95) - 1]
    return {"median": round(statistics.median(samples), 3), "p95": p95, "samples": samples}


order = ["wake", "restore", "http", "sleep", "pause", "checkpoint", "delete", "create"]
facts = {
    "what": "bare runsc",
    "runtime": runtime.removeprefix("runsc version "),
    "iterations": int(iterations),
    "heldMiB": int(mib),
    "imageBytes": int(image_bytes),
    "began": float(began),
    "ended": float(ended),
    "unit": "ms",
}
lines = [f"    {json.dumps(name)}: {json.dumps(summary([round(sample, 3) for sample in phases[name]]))}" for name in order]
print(json.dumps(facts, indent=2).removesuffix("\n}") + ',\n  "phases": {\n' + ",\n".join(lines) + "\n  }\n}")
PYTHON
}

network
mkfifo "$work/never"
bundle "$@"
round=0
boot
put_to_sleep baseline-000000 "$work/image-0"
for ((round = 1; round <= warm_up + iterations; round++)); do
  printf -v id 'baseline-%06d' "$round" # of one length: runsc finds ids by prefix
  [ "$round" != $((warm_up + 1)) ] || first=$EPOCHREALTIME
  wake "$id" "$work/image-$((round - 1))"
  put_to_sleep "$id" "$work/image-$round"
  rm -rf "$work/image-$((round - 1))"
done
report "$work/image-$((round - 1))"
