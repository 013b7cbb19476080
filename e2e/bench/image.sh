#!/usr/bin/env bash
#
# Measures the cold pull and unpacking of an image of 100 MB beside `crane export | tar x` of the same image, from the same registry on
# this machine, in turns.
#
#   e2e/bench/image.sh BIN_DIR
#
#   BIN_DIR  directory of ate-bench (cargo build --release --bins --features bench)
#
# Prints each number with its target and ok or MISS, and adds them to bench.json beside BIN_DIR. Exit code 0 also with a MISS.
# BENCH_PULLS says how many times each is done (7).

set -euo pipefail

readonly parts=image pulls=${BENCH_PULLS:-7} bytes=100000000 bound=1.5

[ $# = 1 ] || { sed -n '3,/^$/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
bin=$(cd "$1" 2>/dev/null && pwd) || die "no directory $1: cargo build --release --bins --features bench"
[ -x "$bin/ate-bench" ] || die "no $bin/ate-bench: cargo build --release --bins --features bench"
part image

dir=$(mktemp -d -p /var/tmp)
clean_up() {
  kill "$registry" 2>/dev/null || true
  rm -rf "$dir" "$found"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

port=$(/usr/bin/python3 -c 'import socket
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    print(probe.getsockname()[1])')
crane registry serve --address "127.0.0.1:$port" --disk "$dir" >"$dir/registry.log" 2>&1 &
registry=$!
until_ok "the registry" curl -sf "http://127.0.0.1:$port/v2/"

# Files as images have them: those of this machine, as many as make 100 MB, in two layers.
find /usr/lib /usr/share -xdev -type f -size -4096k -printf '%s %p\n' | LC_ALL=C sort -k 2 |
  awk -v most="$bytes" 'NF == 2 && (sum += $1) <= most { print $2 > (sum * 2 > most ? "'"$dir"'/upper" : "'"$dir"'/lower") }'
for layer in lower upper; do
  tar -C / --owner=0 --group=0 -czf "$dir/$layer.tgz" -T "$dir/$layer" 2>/dev/null
done
crane append --insecure -f "$dir/lower.tgz" -f "$dir/upper.tgz" -t "127.0.0.1:$port/image:latest" >"$dir/push.log" 2>&1 || die "$(cat "$dir/push.log")"
image=127.0.0.1:$port/image@$(crane digest --insecure "127.0.0.1:$port/image:latest")

# timed FILE COMMAND...: adds its seconds to FILE.
timed() {
  local began=$EPOCHREALTIME
  "${@:2}"
  awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN { print b - a }' >>"$1"
}
reference() { mkdir "$dir/theirs" && crane export --insecure "$image" - | tar -C "$dir/theirs" -x; }
ours() { "$bin/ate-bench" pull "$image" "$dir/ours"; }
middle() { sort -g "$1" | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }'; }

for ((i = 0; i < pulls; i++)); do
  timed "$dir/reference" reference
  timed "$dir/pull" ours
  files=$(find "$dir"/ours/images/*/rootfs -type f | wc -l)
  [ "$files" = "$(find "$dir/theirs" -type f | wc -l)" ] || die "other files than crane's"
  rm -rf "$dir/theirs" "$dir/ours"
done
theirs=$(middle "$dir/reference") mine=$(middle "$dir/pull")
print "image of 100 MB, $files files: crane export | tar x" "$theirs" s
print "image of 100 MB: cold pull and unpacking" "$mine" s
print "image: ours / crane export | tar x" "$(awk -v a="$mine" -v b="$theirs" 'BEGIN { print a / b }')" "" "$bound"
keep "$bin/../bench.json"
