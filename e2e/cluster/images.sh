#!/bin/bash
# images.sh OUTDIR: makes pause.tar and busybox.tar (images localhost/pause:1, localhost/busybox:1)
set -eu
here=$(cd "$(dirname "$0")" && pwd); out=$1
mkdir -p "$out"
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
mkdir -p "$tmp/pause"
gcc -static -Os -s -o "$tmp/pause/pause" "$here/src/pause.c"
"$here/mkimage.sh" localhost/pause:1 "$tmp/pause" "$out/pause.tar" '{"Entrypoint":["/pause"]}'
b=$tmp/busybox
mkdir -p "$b"/{bin,sbin,usr/bin,usr/sbin,etc,tmp,root,proc,sys,dev,var/run,run}
chmod 1777 "$b/tmp"
cp "$(command -v busybox)" "$b/bin/busybox"
# every applet as a link; then real programs for those that busybox lacks or has
# weaker, with their libraries. sh must be dash: Debian's busybox sh prefers its
# own applets to what PATH has (its `ip` knows no netns). Its wget crashes: curl.
for a in $(/bin/busybox --list | grep -vxE 'busybox|wget'); do ln -sf busybox "$b/bin/$a"; done
for t in dash ip unshare nsenter mount umount sysctl ethtool curl; do
  f=$(PATH=/usr/sbin:/sbin:$PATH command -v $t)
  rm -f "$b/bin/$t"
  cp -L "$f" "$b/bin/"
  ldd "$f" | grep -o '/[^ ]*' | while read -r l; do mkdir -p "$b$(dirname "$l")"; cp -Ln "$l" "$b$l"; done
done
ln -sf dash "$b/bin/sh"
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$b/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$b/etc/group"
"$here/mkimage.sh" localhost/busybox:1 "$b" "$out/busybox.tar" '{"Env":["PATH=/bin:/sbin:/usr/bin:/usr/sbin"],"Cmd":["sh"]}'
