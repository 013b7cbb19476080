#!/bin/bash
# up.sh: starts a Kubernetes cluster, each node inside its own network, mount, pid,
# uts and ipc namespaces, all under one private folder. Nothing of it is left on the
# machine once down.sh has killed the nodes' first processes. Needs root.
#   E2E_ID    0..9, which cluster (its addresses and names), default 0
#   E2E_NODES 1..9, default 1; the first node has the control plane too
#   E2E_DIR   its folder, default /var/tmp/agent-substrate-cluster$E2E_ID
#   E2E_CACHE what build.sh made, default /usr/local/lib/agent-substrate/cluster
#   E2E_CONTROL_PLANE_ONLY=1   no containerd, kubelet, kube-proxy, CoreDNS
#   E2E_AUDIT a group of users: whatever they write is in log/audit.log, a line of JSON each
# up.sh NODE: starts a node (number or name) that `down.sh NODE` stopped, or one more. Images in
# images/*.tar of the cluster's folder it has from the start.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
id=${E2E_ID:-0} dir=${E2E_DIR:-/var/tmp/agent-substrate-cluster${E2E_ID:-0}} cache=${E2E_CACHE:-/usr/local/lib/agent-substrate/cluster}
only=${E2E_CONTROL_PLANE_ONLY:-}
net=e2e$id switch=e2e$id-switch host=10.199.$id.1 svcs=10.201.$id.0/24 dns=10.201.$id.10 server=https://10.199.$id.2:6443
pki=$dir/pki conf=$dir/conf bin=$dir/bin
node() { # K|NAME: sets the variables of that node; s, in its names, is empty for the first
  k=${1##*-node}; k=${k:-1} s=${k#1}
  ns=$net${s:+-$s} name=$net-node$s addr=10.199.$id.$((k + 1)) pods=10.200.$((10 * (k - 1) + id)).0/24
  root=$dir/root$s log=$dir/log$s
}

if [ "${1:-}" = init ]; then # ------------------- first process of a node
  node "$2"
  hostname "$name"
  mount --make-rshared /
  mount -t proc proc /proc
  mount -t tmpfs -o mode=755 tmpfs /run
  for d in /var/lib/kubelet /var/lib/containerd /var/lib/cni /var/lib/ate /var/log/pods /var/log/containers /etc/cni; do
    mkdir -p "$d" "$root$d"
    mount --bind "$root$d" "$d"
  done
  export PATH=$bin:$PATH
  run() { n=$1; shift; "$@" >>"$log/$n.log" 2>&1 & echo "$n $!" >>"$dir/pids$s"; }
  if [ "$k" = 1 ]; then
    audit=()
    [ ! -e "$conf/audit.yaml" ] || audit=(--audit-policy-file "$conf/audit.yaml" --audit-log-path "$log/audit.log")
    run etcd etcd --name e2e --data-dir "$dir/etcd" --unsafe-no-fsync --log-level warn
    run kube-apiserver kube-apiserver \
      --etcd-servers http://127.0.0.1:2379 --storage-media-type application/vnd.kubernetes.protobuf \
      --advertise-address "$addr" --bind-address 0.0.0.0 --secure-port 6443 \
      --tls-cert-file "$pki/apiserver.crt" --tls-private-key-file "$pki/apiserver.key" \
      --client-ca-file "$pki/ca.crt" --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction \
      --feature-gates WatchList=true --allow-privileged --service-cluster-ip-range "$svcs" \
      --service-account-issuer https://kubernetes.default.svc.cluster.local \
      --service-account-key-file "$pki/sa.pub" --service-account-signing-key-file "$pki/sa.key" \
      --requestheader-client-ca-file "$pki/front-proxy-ca.crt" --requestheader-allowed-names front-proxy-client \
      --requestheader-extra-headers-prefix X-Remote-Extra- --requestheader-group-headers X-Remote-Group \
      --requestheader-username-headers X-Remote-User \
      --proxy-client-cert-file "$pki/front-proxy-client.crt" --proxy-client-key-file "$pki/front-proxy-client.key" \
      --enable-aggregator-routing="${E2E_AGGREGATOR_ROUTING:-true}" \
      --kubelet-client-certificate "$pki/admin.crt" --kubelet-client-key "$pki/admin.key" \
      --kubelet-preferred-address-types InternalIP "${audit[@]}"
  fi
  if [ -z "$only" ]; then
    run containerd containerd --config "$conf/containerd.toml"
    (
      until ctr version >/dev/null 2>&1; do sleep .1; done
      for i in "$cache"/images/*.tar "$dir"/images/*.tar; do [ ! -e "$i" ] || ctr -n k8s.io images import "$i"; done
      touch "$dir/images$s.done"
    ) >"$log/images.log" 2>&1 &
  fi
  until curl -ksf -o /dev/null "$server/readyz"; do sleep .1; done
  if [ "$k" = 1 ]; then
    touch "$dir/apiserver.done"
    run kube-controller-manager kube-controller-manager --kubeconfig "$conf/kube-controller-manager.conf" \
      --leader-elect=false --bind-address 127.0.0.1 --use-service-account-credentials \
      --service-account-private-key-file "$pki/sa.key" --root-ca-file "$pki/ca.crt" \
      --pvclaimbinder-sync-period 1s --node-monitor-grace-period 20s \
      --cluster-signing-cert-file "$pki/ca.crt" --cluster-signing-key-file "$pki/ca.key"
    run kube-scheduler kube-scheduler --kubeconfig "$conf/kube-scheduler.conf" --leader-elect=false --bind-address 127.0.0.1
  fi
  if [ -z "$only" ]; then
    run kube-proxy kube-proxy --config "$conf/kube-proxy$s.yaml"
    until [ -e "$dir/images$s.done" ]; do sleep .1; done
    run kubelet kubelet --config "$conf/kubelet$s.yaml" --kubeconfig "$conf/kubelet$s.conf" \
      --hostname-override "$name" --node-ip "$addr"
  fi
  wait # bash reaps what is re-parented to it meanwhile
  exit
fi

# ----------------------------------------------------------------- on the host
# Certificates: two authorities, P-256 keys (made in milliseconds).
key() { openssl ecparam -name prime256v1 -genkey -noout -out "$pki/$1.key"; }
ca() { key "$1"; openssl req -x509 -new -key "$pki/$1.key" -subj "/CN=$1" -days 3650 -out "$pki/$1.crt"; }
cert() { # NAME SUBJECT CA [SAN]
  key "$1"
  openssl req -new -key "$pki/$1.key" -subj "$2" | openssl x509 -req -days 3650 -CA "$pki/$3.crt" -CAkey "$pki/$3.key" \
    -CAcreateserial -out "$pki/$1.crt" 2>/dev/null -extfile <(
      echo 'extendedKeyUsage=clientAuth,serverAuth'; [ -z "${4:-}" ] || echo "subjectAltName=$4")
}
user() { # NAME SUBJECT: a certificate and a kubeconfig with it
  cert "$1" "$2" ca
  cat >"$conf/$1.conf" <<EOY
apiVersion: v1
kind: Config
clusters: [{name: e2e, cluster: {server: "$server", certificate-authority-data: $(base64 -w0 "$pki/ca.crt")}}]
users: [{name: user, user: {client-certificate-data: $(base64 -w0 "$pki/$1.crt"), client-key-data: $(base64 -w0 "$pki/$1.key")}}]
contexts: [{name: e2e, context: {cluster: e2e, user: user}}]
current-context: e2e
EOY
}

is_up() { [ -n "$(ip netns pids "$ns" 2>/dev/null)" ]; }

start() { # the node of the variables
  mkdir -p "$log" "$root/etc/cni/net.d"
  rm -f "$dir/pids$s" "$dir/images$s.done"
  [ "$k" != 1 ] || rm -f "$dir/apiserver.done"
  user "kubelet$s" "/O=system:nodes/CN=system:node:$name"
  cat >"$root/etc/cni/net.d/10-e2e.conflist" <<EOY
{"cniVersion": "0.4.0", "name": "e2e", "plugins": [
  {"type": "ptp", "ipam": {"type": "host-local", "ranges": [[{"subnet": "$pods"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
EOY
  cat >"$conf/kube-proxy$s.yaml" <<EOY
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: ${E2E_PROXY_MODE:-nftables}
clientConnection: {kubeconfig: $conf/kube-proxy.conf}
hostnameOverride: $name
clusterCIDR: $pods
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
EOY
  cat >"$conf/kubelet$s.yaml" <<EOY
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
cgroupRoot: /$ns
failCgroupV1: false
failSwapOn: false
nodeLeaseDurationSeconds: 20
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $pki/ca.crt}}
authorization: {mode: Webhook}
clusterDNS: [$dns]
clusterDomain: cluster.local
resolvConf: $conf/resolv.conf
imageGCHighThresholdPercent: 100
# Tests kill the same again and again.
featureGates: {KubeletCrashLoopBackOffMax: true}
crashLoopBackOff: {maxContainerRestartPeriod: 5s}
evictionHard: {memory.available: 100Mi, nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%", imagefs.inodesFree: "0%"}
EOY

  # The node's network: a veth to the switch, and routes to the other nodes' pods; no
  # route to anywhere else. A fixed MAC, as others remember that of a node that comes back.
  ip netns add "$ns"
  ip -n "$switch" link add "node$k" master br0 type veth peer name eth0 address "02:00:00:00:0$id:0$k" netns "$ns"
  ip -n "$switch" link set "node$k" up
  ip -n "$ns" link set lo up
  ip -n "$ns" addr add "$addr/24" dev eth0
  ip -n "$ns" link set eth0 up
  # Without a default route, the node's own processes (API server, hostNetwork pods)
  # need some route that kube-proxy's rules can rewrite; a bridge without ports
  # swallows what they do not (the kernel here has no dummy device).
  ip -n "$ns" link add svc0 type bridge
  ip -n "$ns" link set svc0 up
  ip -n "$ns" route add "$svcs" dev svc0 src "$addr"
  ip netns exec "$ns" sysctl -qw net.ipv4.ip_forward=1
  ip route replace "$pods" via "$addr"
  local me=$k my=$ns to="$pods via $addr" j
  for j in {1..9}; do
    node $j
    [ $j != "$me" ] && [ -e "/run/netns/$ns" ] || continue
    ip -n "$ns" route replace $to
    ip -n "$my" route replace "$pods" via "$addr"
  done
  node "$me"
  for c in /sys/fs/cgroup/*/; do # the kubelet wants its root to be there in each hierarchy
    mkdir -p "$c$ns"
    [ ! -e "$c$ns/cpuset.cpus" ] || { cat "${c}cpuset.cpus" >"$c$ns/cpuset.cpus"; cat "${c}cpuset.mems" >"$c$ns/cpuset.mems"; }
  done

  # nsenter, not `ip netns exec`: that would hide /sys/fs/cgroup under a new /sys.
  E2E_ID=$id E2E_DIR=$dir E2E_CACHE=$cache setsid nsenter --net=/run/netns/"$ns" \
    unshare --mount --pid --uts --ipc --fork --kill-child --propagation private \
    bash "$here/up.sh" init "$k" >>"$log/node.log" 2>&1 </dev/null &
  echo $! >"$dir/pid$s"
}

export KUBECONFIG=$dir/kubeconfig
kubectl() { setpriv --pdeathsig KILL "$bin/kubectl" "$@"; } # none outlives up.sh
ready() { # the node of the variables; a lost one still counts as Ready for a while, so ask its kubelet
  until kubectl get --raw "/api/v1/nodes/$name/proxy/healthz" && kubectl wait --for=condition=Ready "node/$name" --timeout=60s; do
    [ $SECONDS -lt 120 ] || { echo "up.sh: $name not Ready; see $log" >&2; exit 1; }
    sleep .2
  done >/dev/null 2>&1
  echo "up.sh: $name Ready after ${SECONDS}s"
}

node "${1:-1}"
if is_up; then
  echo "up.sh: $name is already up ($dir): run down.sh first" >&2
  exit 1
fi
if [ $# -gt 0 ]; then
  [ -e "/run/netns/$switch" ] || { echo "up.sh: no cluster to start $name in" >&2; exit 1; }
  E2E_ID=$id E2E_DIR=$dir "$here/down.sh" "$k"
  start
  ready
  exit
fi

E2E_ID=$id E2E_DIR=$dir "$here/down.sh" --purge # what a crash may have left
mkdir -p "$pki" "$conf" "$bin"
for c in etcd kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl; do
  ln -s "$cache/kube" "$bin/$c"
done
ca ca; ca front-proxy-ca
cert apiserver /CN=kube-apiserver ca "DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,IP:127.0.0.1,IP:$addr,IP:10.201.$id.1"
cert front-proxy-client /CN=front-proxy-client front-proxy-ca
user admin /O=system:masters/CN=admin
for c in kube-controller-manager kube-scheduler kube-proxy; do user $c "/CN=system:$c"; done
key sa; openssl ec -in "$pki/sa.key" -pubout -out "$pki/sa.pub" 2>/dev/null
cat >"$conf/containerd.toml" <<EOY
version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"
EOY
: >"$conf/resolv.conf"
[ -z "${E2E_AUDIT:-}" ] || cat >"$conf/audit.yaml" <<EOY
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, userGroups: ["$E2E_AUDIT"], verbs: [create, update, patch, delete, deletecollection]}
- level: None
EOY
cp "$conf/admin.conf" "$KUBECONFIG"

# The switch between host and nodes: a bridge in a namespace of its own, out of reach
# of the host's packet filter. The host has one veth to it, and routes.
ip netns add "$switch"
ip -n "$switch" link add br0 type bridge
ip link add "$net" type veth peer name host netns "$switch"
ip -n "$switch" link set host master br0 up
ip -n "$switch" link set br0 up
ip addr add "$host/24" dev "$net"
ip link set "$net" up
nodes=$(seq "${E2E_NODES:-1}")
[ -z "$only" ] || nodes=1
for k in $nodes; do node "$k"; start; done
ip route add "$svcs" via "10.199.$id.2"

for ((i = 0; ; i++)); do
  [ ! -e "$dir/apiserver.done" ] || break
  [ $i -lt 600 ] && kill -0 "$(cat "$dir/pid")" || { echo "up.sh: no API server; see $dir/log" >&2; exit 1; }
  sleep .1
done
echo "up.sh: API server ready after ${SECONDS}s: KUBECONFIG=$KUBECONFIG"
[ -z "$only" ] || exit 0
kubectl apply -f - >"$dir/log/coredns-apply.log" < <(sed "s/@DNS@/$dns/; s/@NODE@/$net-node/" "$here/coredns.yaml")
for k in $nodes; do node "$k"; ready; done
kubectl -n kube-system rollout status deployment/coredns --timeout=60s >/dev/null
echo "up.sh: CoreDNS running after ${SECONDS}s"
