package replication

// Bugs is a set of planted faults, for the self-test of the simulator only: it can be set by no option outside this package and
// its test hook (sim.go).
type Bugs uint32
