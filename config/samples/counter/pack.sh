#!/usr/bin/env bash
#
# Packs server.py as an image: Python from Debian's packages, the server, nothing else.
#
#   config/samples/counter/pack.sh LAYOUT [ATE]
#
#   LAYOUT  OCI layout directory to write to; LAYOUT.rootfs beside it is its root filesystem
#   ATE     the ate binary (ate)
#
# Prints the reference that an ActorTemplate names: oci-layout:/path@sha256:... It depends on the content alone.

set -euo pipefail

[ $# = 1 ] || [ $# = 2 ] || { sed -n '3,/^$/s/^# \{0,1\}//p' "$0" >&2; exit 2; }
readonly layout=$1 rootfs=$1.rootfs ate=${2:-ate}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# names: the interpreter with what it needs to run, and its standard library. What only some modules of that need
# (SQLite, curses, ...) is left out: a server that imports them adds the packages here.
names() {
  local python
  python=$(apt-cache depends python3-minimal | awk '$1 ~ /Depends:$/ && $2 ~ /^python3\.[0-9]+-minimal$/ { print $2 }')
  [ -n "$python" ] || return 1
  apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances "$python" |
    grep '^[a-z]'
  echo "lib${python%-minimal}-stdlib"
}

# versions: one NAME=VERSION a line, what apt would install.
versions() {
  names | sort -u | xargs apt-cache policy | awk '
    /^[^ ]/ { sub(/:$/, ""); name = $0 }
    $1 == "Candidate:" { print name "=" $2 }'
}

# A fresh machine has no package lists yet.
packages=$(versions) || { apt-get -q update >&2 && packages=$(versions); }

fill() {
  local new=$rootfs.new debs=$rootfs.debs package
  rm -rf "$new" "$debs"
  mkdir -p "$new/usr" "$debs"
  # Debian's base-files would bring these links, and much else.
  for dir in bin lib lib64 sbin; do ln -s "usr/$dir" "$new/$dir"; mkdir "$new/usr/$dir"; done
  (cd "$debs" && apt-get -q -o APT::Sandbox::User=root download $packages >&2)
  for package in "$debs"/*.deb; do dpkg -x "$package" "$new"; done
  rm -rf "$new"/usr/share/{doc,man,lintian,locale,bug} "$new"/usr/lib/*/gconv "$debs"
  mkdir -p "$new"/{app,data,dev,etc,proc,run,sys,tmp}
  chmod 1777 "$new/tmp"
  echo "root:x:0:0:root:/:/bin/false" >"$new/etc/passwd"
  cp "$here/server.py" "$new/app/server.py"
  rm -rf "$rootfs"
  mv "$new" "$rootfs"
}

mkdir -p "$(dirname "$layout")"
key=$(cat <(printf '%s\n' "$packages") "$here/server.py" "$here/pack.sh" | sha256sum | cut -c 1-64)
readonly done_before=$layout.reference # KEY REFERENCE
read -r packed_key reference <"$done_before" 2>/dev/null || packed_key= reference=
if [ "$packed_key" != "$key" ] || [ ! -e "$layout/blobs/sha256/${reference##*:}" ]; then
  fill
  python=$(cd "$rootfs/usr/bin" && ls -d python3.* | head -n 1)
  reference=$("$ate" image pack "$rootfs" "$layout" --env PYTHONDONTWRITEBYTECODE=1 --env PYTHONUNBUFFERED=1 \
    -- "/usr/bin/$python" /app/server.py)
  echo "$key $reference" >"$done_before"
fi
echo "$reference"
