#!/usr/bin/env bash
# The whole story on a real Kubernetes cluster on this machine: installs what it needs, builds, plays, leaves the cluster up.
set -euo pipefail
export CGO_ENABLED=0
cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ]; then
  echo "make demo needs root (network namespaces, mounts, loop devices). Without root: make demo-local" >&2
  exit 1
fi
hack/deps.sh
hack/lab-build.sh
go run ./tests/demo "$@"
