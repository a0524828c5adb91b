#!/usr/bin/env bash
# Everything of a release in dist/: the plugin's archives with the krew manifest (hack/krew.sh), the daemons' container images, the Helm chart, the list
# of images for a registry without internet, and SHA256SUMS over all of it. Two runs from one commit give equal bytes but for the images' base.
#   VERSION   v1.2.3 (required)
#   REPRODUCE=1   build the plugin twice and compare
set -euo pipefail
export CGO_ENABLED=${CGO_ENABLED:-0}
cd "$(dirname "$0")/.."
version=${VERSION:?set VERSION=v1.2.3}
[[ $version =~ ^v[0-9]+\.[0-9]+\.[0-9]+ ]] || { echo "VERSION=$version is no semantic version such as v1.2.3"; exit 1; }
git diff --quiet HEAD || { echo "the work tree differs from the commit: commit first"; exit 1; }
[ ! -e "dist/$version" ] || { echo "dist/$version exists: a release is never replaced"; exit 1; }
out=dist/$version

OUT=$out VERSION=$version hack/krew.sh
if [ -n "${REPRODUCE:-}" ]; then
  again=$(mktemp -d)
  trap 'rm -rf "$again"' EXIT
  go run ./krew --version "$version" --out "$again"
  diff "$out/SHA256SUMS" "$again/SHA256SUMS"
  echo "release: the archives of two builds are equal"
fi
make build VERSION="$version"
TAG=$version hack/images.sh
gzip -n -c build/images/iomesh.tar > "$out/iomesh-image-$version-$(go env GOARCH).tar.gz"
go run ./manifests/internal/package --version "$version" --out "$out"
(cd "$out" && find . -type f ! -name SHA256SUMS -printf '%P\n' | sort | xargs sha256sum > SHA256SUMS.new && mv SHA256SUMS.new SHA256SUMS)
ls -l "$out"
