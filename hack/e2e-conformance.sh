#!/usr/bin/env bash
# Kubernetes' own end-to-end suite for storage drivers (e2e.test, External.Storage) against our CSI driver, on a cluster made here.
# IOMESH_CONFORMANCE=all runs the slow and serial specs too; the names of runs, with semicolons between them, only those.
set -euo pipefail
export CGO_ENABLED=0
cd "$(dirname "$0")/.."
if [ "$(id -u)" != 0 ]; then
  echo "make e2e-conformance needs root to make a cluster on this machine" >&2
  exit 1
fi
hack/deps.sh
hack/lab-build.sh
bin/kubelab build --with-conformance
down() { bin/kubelab --dir /tmp/iomesh-e2e down --purge >/dev/null 2>&1 || true; }
trap down EXIT
down
go test -tags e2e,conformance -count=1 -timeout 170m -v -run 'TestConformance' ./tests/e2e "$@"
