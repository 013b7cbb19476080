#!/usr/bin/env bash
#
# Makes an image of programs of this machine without a container engine: the programs, the libraries that `ldd` names, the
# CAs that the system knows. For tests; an installation's is the Dockerfile's, which holds the same.
#
#   e2e/image.sh NAME OUT.tar UID PROGRAM...     the first program is the entrypoint; all are on PATH
#
#   e2e/image.sh ate:0.1.0 ate.tar 65532 target/debug/ate runsc nft
#   e2e/image.sh valkey/valkey:8.1 valkey.tar 999 valkey-server
#
# `ctr -n k8s.io images import OUT.tar` loads it.

set -euo pipefail

[ $# -ge 4 ] || { sed -n '3,/^$/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
readonly name=$1 out=$2 uid=$3
shift 3
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PATH=$PATH:/usr/local/bin:/usr/sbin:/sbin

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{usr/local/bin,etc/ssl/certs,tmp,proc,sys,dev}
chmod 755 "$root"
chmod 1777 "$root/tmp"
printf 'root:x:0:0:root:/:/sbin/nologin\nnonroot:x:%s:%s:nonroot:/:/sbin/nologin\n' "$uid" "$uid" >"$root/etc/passwd"
printf 'root:x:0:\nnonroot:x:%s:\n' "$uid" >"$root/etc/group"
[ ! -e /etc/ssl/certs/ca-certificates.crt ] || cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"

for program in "$@"; do
  file=$(command -v "$program") || { echo "image.sh: there is no $program" >&2; exit 1; }
  # Lines of backtraces are most of a debug build, and nobody reads them there.
  strip --strip-debug -o "$root/usr/local/bin/${file##*/}" "$file" 2>/dev/null || cp -L "$file" "$root/usr/local/bin/"
  { ldd "$file" 2>/dev/null || true; } | { grep -o '/[^ ]*' || true; } | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp -Ln "$library" "$root$library"
  done
done
entrypoint=/usr/local/bin/$(basename "$1")
"$here/cluster/mkimage.sh" "$name" "$root" "$out" \
  "{\"Entrypoint\":[\"$entrypoint\"],\"User\":\"$uid:$uid\",\"Env\":[\"PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\"]}"
