#!/usr/bin/env bash
# Measure against tgtd and the floor in one run. Arguments are those of build/bench (-h lists them): scale, fair, rebuild and times measure the rest. FIO=path of a fio with the libiscsi
# engine measures with that as well.
set -euo pipefail
export CGO_ENABLED=0
cd "$(dirname "$0")/.."
if ! command -v tgtd >/dev/null; then
  [ "$(id -u)" = 0 ] || { echo "make bench needs tgtd, Debian's package tgt (as root: apt-get install -y --no-install-recommends tgt)" >&2; exit 1; }
  apt-get update -q >/dev/null
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends tgt >/dev/null
fi
make -s storaged
mkdir -p build
go build -ldflags "-X github.com/iomesh/iomesh/internal/version.version=$(git describe --tags --always --dirty 2>/dev/null || echo v0.0.0)" -o build/bench ./tests/bench/cmd/bench
cmd=compare
case "${1:-}" in [a-z]*) cmd=$1; shift ;; esac
build/bench "$cmd" -json "build/bench-$cmd.json" "$@"
