#!/usr/bin/env bash
# The suite that needs no virtual machine and no cluster. -race where concurrency lives; the rest without, which is
# faster and includes the speed-bound simulator.
set -euo pipefail
export CGO_ENABLED=${CGO_ENABLED:-0}
cd "$(dirname "$0")/.."
module=$(go list -m)
mapfile -t all < <(go list ./...)
race=() plain=()
for p in "${all[@]}"; do
  case ${p#"$module"/} in
    # Bound by speed, or by programs that are not ours: the suites of libiscsi and qemu take ten times as long against daemons under -race.
    storaged/sim*|storaged/stacksim|storaged/replication*|storaged/target/conformance|tests/e2e*) plain+=("$p") ;;
    storaged/store) plain+=("$p") race+=("$p") ;; # its sweeps are thin under -race
    storaged/*|csi*|agent*|attach*|internal/*) race+=("$p") ;;
    *) plain+=("$p") ;;
  esac
done
echo "== tests without -race: ${#plain[@]} packages"
go test -timeout 25m "${plain[@]}"
echo "== tests with -race: ${#race[@]} packages"
CGO_ENABLED=1 go test -race -timeout 25m "${race[@]}"
