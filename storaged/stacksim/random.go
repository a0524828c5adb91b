package stacksim

import (
	"math/rand/v2"
	"time"

	"github.com/iomesh/iomesh/storaged/block"
)

// Random draws a configuration from a seed.
func Random(seed uint64) Config {
	rng := rand.New(rand.NewPCG(seed, 0xc0f1))
	extra := rand.New(rand.NewPCG(seed, 0xadd)) // what was added later, so that seeds stay what they were
	chance := func(percent int) bool { return rng.IntN(100) < percent }
	c := Config{Seed: seed, Nodes: 3 + rng.IntN(2), Disks: 1 + rng.IntN(2), Members: 1 + 2*rng.IntN(2), Depth: 1 + rng.IntN(6), Think: between(rng, 5*time.Millisecond, 200*time.Millisecond),
		Length: between(rng, 5*time.Second, 12*time.Second), Faults: 1 + rng.IntN(6), RepairDelay: 10 * time.Minute}
	if chance(30) {
		c.RepairDelay = between(rng, time.Second, 5*time.Second)
	}
	if chance(30) {
		c.ResyncBytes = 1 << 20
	}
	if c.ScrubBytes = 1 << 20; extra.IntN(100) < 10 {
		c.ScrubBytes = 8 << 20
	}
	for range 1 + rng.IntN(2) {
		v := VolumeConfig{Replicas: 2 + rng.IntN(2), SizeBytes: 16 << 20, Clients: 1}
		if chance(25) {
			v.Clients = 2
		}
		if chance(25) {
			v.SizeBytes += block.ExtentSizeBytes
		}
		c.Volumes = append(c.Volumes, v)
	}
	// Few kinds at a time make combinations of the same kind likely.
	kinds := rng.Perm(int(FaultDiskDead))
	n := 1 + rng.IntN(4)
	switch {
	case chance(20):
		n = len(kinds)
	case chance(15):
		// What is lost for good: nothing else takes copies away.
		kinds = []int{int(FaultDiskDead), int(FaultReset), int(FaultClientReset), int(FaultEtcdStall), int(FaultElect)}
		n = len(kinds)
		c.Faults = min(c.Faults, 3)
	case chance(15):
		// One disk rots, and nothing takes the others away.
		kinds = []int{int(FaultRot), int(FaultRot), int(FaultReset), int(FaultClientReset), int(FaultEtcdMute), int(FaultElect), int(FaultDiskSlow)}
		n = len(kinds)
	}
	for _, k := range kinds[:n] {
		c.Kinds = append(c.Kinds, FaultKind(k))
	}
	for k := range workKinds {
		if chance(30) {
			c.Work = append(c.Work, k)
		}
	}
	return c
}
