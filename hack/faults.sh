#!/usr/bin/env bash
# Faults under verifying load: tests/faults against bin/storaged. Arguments go to the program (default: stalls).
set -euo pipefail
export CGO_ENABLED=${CGO_ENABLED:-0}
cd "$(dirname "$0")/.."
go build -o bin/faults ./tests/faults
[ $# -gt 0 ] || set -- stalls
exec bin/faults "$@"
