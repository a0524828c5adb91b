#!/usr/bin/env bash
# The plugin's archives, checksums and krew manifest in dist/, checked by krew itself: validate-krew-manifest, then an installation from the
# archive of this machine into a krew root of its own, and a run of what was installed.
#   VERSION   v1.2.3 (default v0.0.0)
#   QUICK=1   only this machine's platform
set -euo pipefail
export CGO_ENABLED=${CGO_ENABLED:-0}
cd "$(dirname "$0")/.."
version=${VERSION:-v0.0.0}
[[ $version =~ ^v[0-9]+\.[0-9]+\.[0-9]+ ]] || version=v0.0.0
out=${OUT:-dist}
os=$(go env GOOS) arch=$(go env GOARCH)
rm -rf "$out"
args=()
if [ -n "${QUICK:-}" ]; then
  mkdir -p "build/krew/$os-$arch"
  go build -trimpath -ldflags "-s -w -X github.com/iomesh/iomesh/internal/version.version=$version" -o "build/krew/$os-$arch/kubectl-iomesh" ./kubectl-iomesh
  args=(--binaries build/krew)
fi
go run ./krew --version "$version" --out "$out" "${args[@]}"
(cd "$out" && sha256sum -c --quiet SHA256SUMS)

tools=$PWD/build/tools
mkdir -p "$tools"
(cd tools/krew && go build -o "$tools/" sigs.k8s.io/krew/cmd/krew sigs.k8s.io/krew/cmd/validate-krew-manifest)
# -skip-install: the archives are not at their addresses before they are released; the installation below takes the file.
"$tools/validate-krew-manifest" -manifest "$out/iomesh.yaml" -skip-install

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
export KREW_ROOT=$root
archive=$out/kubectl-iomesh-$version-$os-$arch.tar.gz
[ "$os" = windows ] && archive=$out/kubectl-iomesh-$version-$os-$arch.zip
"$tools/krew" install --manifest "$out/iomesh.yaml" --archive "$archive" </dev/null
# krew links the plugin as kubectl-iomesh; kubectl would run it by that name.
said=$("$root/bin/kubectl-iomesh" version --client 2>&1 || "$root/bin/kubectl-iomesh" --help)
grep -q "$version\|kubectl iomesh" <<<"$said" || { echo "the installed plugin does not run: $said"; exit 1; }
[ -s "$root/receipts/iomesh.yaml" ] || { echo "krew wrote no receipt"; exit 1; }
echo "krew: $out/iomesh.yaml is valid; installed from $archive and run"
