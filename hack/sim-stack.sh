#!/usr/bin/env bash
# Plays seeds of the whole-stack simulator on all cores: hack/sim-stack.sh SEEDS [FIRST]. Prints the failing seeds with the end of their traces and
# leaves the output of all in a directory that it names; fails if any seed does. One process per core and batch: a bubble that deadlocks takes its
# process with it, and goroutines of one run wait for each other more than for the processor.
set -euo pipefail
cd "$(dirname "$0")/.."
seeds=$1 first=${2:-1} batch=${BATCH:-20}
out=$(mktemp -d)
export CGO_ENABLED=0 GOMAXPROCS=1 GOGC=400
go test -c -o "$out/stacksim.test" ./storaged/stacksim
echo "seeds $first to $((first + seeds - 1)) of $(git describe --always --dirty), output in $out"
status=0
seq "$first" "$batch" $((first + seeds - 1)) | xargs -P "$(nproc)" -I{} sh -c '
  n='"$batch"'; last='$((first + seeds))'
  [ $(({} + n)) -gt $last ] && n=$((last - {}))
  cd '"$out"' && mkdir -p tmp.{} && TMPDIR='"$out"'/tmp.{} ./stacksim.test -test.run "TestSeeds$" -test.timeout 0 -test.v -start {} -seeds $n >{}.log 2>&1
  rc=$?; rm -rf tmp.{}; exit $rc' || status=1
played=$(cat "$out"/*.log | grep -c '^    --- PASS: TestSeeds/' || true)
bad=$(cat "$out"/*.log | grep -c 'stacksim_test.go.*: seed ' || true)
passed=$((played - bad))
grep -h -A 60 'stacksim_test.go.*: seed \|does not end\|^panic\|^fatal' "$out"/*.log || true
echo "$passed of $seeds seeds passed"
[ $status = 0 ] && [ "$passed" = "$seeds" ]
