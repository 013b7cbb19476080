#!/bin/bash
# build.sh [control-plane]: puts into the cache folder what up.sh needs; what is there is kept.
# With `control-plane` only kube, and no package is installed.
#   E2E_CACHE  default /usr/local/lib/agent-substrate/cluster: kube (one binary), images/*.tar
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cache=${E2E_CACHE:-/usr/local/lib/agent-substrate/cluster}
mkdir -p "$cache/images"

if [ "${1:-}" != control-plane ]; then
  need=()
  for p in containerd runc containernetworking-plugins busybox-static nftables iptables conntrack iproute2 \
    kmod socat ethtool openssl curl gcc libc6-dev; do
    dpkg-query -W -f '${Status}' $p 2>/dev/null | grep -q 'ok installed' || need+=($p)
  done
  if [ ${#need[@]} -gt 0 ]; then
    apt-get -o DPkg::Lock::Timeout=120 update -q
    apt-get -o DPkg::Lock::Timeout=120 install -qy --no-install-recommends "${need[@]}"
  fi
fi

v=$(sed -n 's,.*k8s.io/kubernetes v,v,p' "$here/src/kube/go.mod")
if [ "$("$cache/kube" kubelet --version 2>/dev/null)" != "Kubernetes $v" ]; then
  p=k8s.io/component-base/version minor=${v#v1.}; minor=${minor%%.*}
  (cd "$here/src/kube" && GO_LDFLAGS="-X $p.gitVersion=$v -X $p.gitMajor=1 -X $p.gitMinor=$minor -X $p.gitTreeState=clean" \
    "$here/../go.sh" build -o "$cache/kube.new" .)
  mv -f "$cache/kube.new" "$cache/kube" # an old one may be running
fi
[ "${1:-}" != control-plane ] || exit 0
if [ ! -e "$cache/images/coredns.tar" ]; then
  tmp=$(mktemp -d)
  (cd "$here/src/coredns" && "$here/../go.sh" build -o "$tmp/coredns" .)
  "$here/mkimage.sh" localhost/coredns:1 "$tmp" "$cache/images/coredns.tar" '{"Entrypoint":["/coredns"]}'
  rm -rf "$tmp"
fi
[ -e "$cache/images/busybox.tar" ] || "$here/images.sh" "$cache/images"
