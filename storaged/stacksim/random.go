package stacksim

import (
	"math/rand/v2"
	"time"
)

// Random draws a configuration from a seed.
func Random(seed uint64) Config {
	rng := rand.New(rand.NewPCG(seed, 0xc0f1))
	c := Config{Seed: seed, Nodes: 3, Disks: 1, Members: 3, Depth: 1 + rng.IntN(4), Think: between(rng, 5*time.Millisecond, 100*time.Millisecond),
		Length: between(rng, 8*time.Second, 20*time.Second), Faults: 1, Kinds: []FaultKind{FaultPower}}
	c.Volumes = []VolumeConfig{{Replicas: 3, SizeBytes: 16 << 20, Clients: 1}}
	return c
}
