#!/usr/bin/env bash
# The fault matrix of observability: tests/observe against bin/storaged. Arguments go to the program. As root.
set -euo pipefail
export CGO_ENABLED=${CGO_ENABLED:-0}
cd "$(dirname "$0")/.."
go build -o bin/observe ./tests/observe
exec bin/observe "$@"
