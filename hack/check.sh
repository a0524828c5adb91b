#!/usr/bin/env bash
# Format, vet, lint, and generated files up to date.
set -euo pipefail
export CGO_ENABLED=${CGO_ENABLED:-0}
cd "$(dirname "$0")/.."
step() { printf '== %s\n' "$*"; }

step gofmt
bad=$(git ls-files '*.go' | xargs gofmt -l)
[ -z "$bad" ] || { echo "not formatted (gofmt -w):"; echo "$bad"; exit 1; }

step "go vet"
go vet ./...

step "go mod tidy leaves no diff"
go mod tidy -diff

step "generated files are up to date"
before=$(git status --porcelain; git diff | sha256sum)
hack/generate.sh
after=$(git status --porcelain; git diff | sha256sum)
[ "$before" = "$after" ] || { echo "run make generate and commit:"; git status --short; exit 1; }

step golangci-lint
lint=${XDG_CACHE_HOME:-$HOME/.cache}/iomesh/lint/$(sha256sum tools/lint/go.sum | cut -c1-16)/golangci-lint
if [ ! -x "$lint" ]; then
  mkdir -p "$(dirname "$lint")"
  (cd tools/lint && CGO_ENABLED=0 go build -o "$lint.new" github.com/golangci/golangci-lint/v2/cmd/golangci-lint)
  mv "$lint.new" "$lint"
fi
"$lint" run ./...
echo "check passed"
