#!/usr/bin/env bash
# Build what a cluster on this machine needs: our programs, Kubernetes, images.
set -euo pipefail
export CGO_ENABLED=0
cd "$(dirname "$0")/.."
step() { printf '%(%T)T  %s\n' -1 "$*"; }
step "building IOMesh (some minutes with an empty build cache)"
make -s build
mkdir -p build
go build -o bin/kubelab ./tests/kube/cmd/kubelab
go build -o build/verifier ./tests/verifier
bin/kubelab preflight || { echo "this machine cannot run the cluster (see above); without it: make demo-local" >&2; exit 1; }
step "building Kubernetes (about 10 minutes the first time, then cached)"
bin/kubelab build
step "making the container images"
hack/images.sh
