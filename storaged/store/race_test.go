//go:build race

package store

// thin is how much less the sweeps do under the race detector, which makes them ten times as slow. What they look for is not in the interleaving of
// goroutines, and they run in full without it (hack/test.sh does both); the stress test and one of everything else look for races.
const thin = 12
