// Package scaling computes docs/scaling.md: what metadata, memory and traffic a large cluster needs, from sizes that its test measures on the real
// packages. `go test ./tests/bench/scaling -update` writes the page; without the flag the test compares the page with what it measures.
package scaling
