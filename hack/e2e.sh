#!/usr/bin/env bash
# End-to-end tests on a real Kubernetes cluster: one made on this machine (root), or any other by KUBECONFIG.
set -euo pipefail
export CGO_ENABLED=0
cd "$(dirname "$0")/.."
if [ -z "${KUBECONFIG:-}" ] && [ "$(id -u)" != 0 ]; then
  echo "make e2e needs root to make a cluster on this machine, or KUBECONFIG with another cluster" >&2
  exit 1
fi
hack/deps.sh
hack/lab-build.sh
down() { bin/kubelab --dir /tmp/iomesh-e2e down --purge >/dev/null 2>&1 || true; }
trap down EXIT
down
go test -tags e2e -count=1 -timeout 40m -v ./tests/e2e "$@"
