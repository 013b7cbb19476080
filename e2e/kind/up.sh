#!/usr/bin/env bash
#
# A cluster in a container by kind (https://kind.sigs.k8s.io), with the images of this tree, for the tests or to try things:
#
#   e2e/kind/up.sh                                     needs docker and kind
#   E2E_KUBECONFIG=e2e/kind/kubeconfig E2E_TOOLS=ate-tools:e2e make e2e
#   kind delete cluster --name ate-e2e
#
# A cluster that is there is kept, and gets the images anew. The store and the S3 server are pulled by the node.

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here name=ate-e2e image=ate:0.1.0 tools=ate-tools:e2e

for program in docker kind; do
  command -v "$program" >/dev/null || { echo "up.sh: no $program on PATH" >&2; exit 1; }
done
docker build -t "$image" "$here/../.."
docker build -t "$tools" "$here"
if kind get clusters 2>/dev/null | grep -qx "$name"; then
  kind export kubeconfig --name "$name" --kubeconfig "$here/kubeconfig"
else
  kind create cluster --config "$here/kind.yaml" --kubeconfig "$here/kubeconfig" --wait 2m
fi
kind load docker-image --name "$name" "$image" "$tools"
echo "up.sh: E2E_KUBECONFIG=$here/kubeconfig E2E_TOOLS=$tools make e2e"
