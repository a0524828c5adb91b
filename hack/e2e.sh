#!/usr/bin/env bash
# End-to-end tests on a real Kubernetes cluster: one made on this machine (root), or any other by KUBECONFIG. Arguments go to go test:
# without any it is the story (-run '^TestStory$'); docs/csi-conformance.md lists the others, which take from minutes to half an hour each.
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
[ $# -gt 0 ] || set -- -run '^TestStory$'
go test -tags e2e -count=1 -timeout 60m -v ./tests/e2e "$@"
