#!/usr/bin/env bash
# Build the container images as archives: build/images/{iomesh,csi-sidecars}.tar. TAG names them (default dev).
set -euo pipefail
export CGO_ENABLED=${CGO_ENABLED:-0}
cd "$(dirname "$0")/.."
tag=${TAG:-dev}
mkdir -p build/images
go build -o build/mkimage ./tests/image/cmd/mkimage
build/mkimage iomesh --bin bin --tag "$tag" --require storaged,iomesh-agent,iomesh-csi,iomesh-attach,iomesh-operator -o build/images/iomesh.tar
build/mkimage sidecars --tag "$tag" -o build/images/csi-sidecars.tar
ls -l build/images
