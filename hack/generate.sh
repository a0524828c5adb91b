#!/usr/bin/env bash
# Regenerate what is generated: protobuf code, deep copies and CRDs.
set -euo pipefail
export CGO_ENABLED=${CGO_ENABLED:-0}
cd "$(dirname "$0")/.."
tools=$PWD/build/tools
mkdir -p "$tools"
go build -o "$tools/" google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc
export PATH=$tools:$PATH
while read -r dir; do
  (cd "$dir" && protoc -I. --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative ./*.proto)
done < <(git ls-files '*.proto' | xargs -n1 dirname | sort -u)
go generate ./api/v1alpha1 ./manifests
