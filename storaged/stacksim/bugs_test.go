package stacksim

import (
	"errors"
	"flag"
	"fmt"
	"testing"
	"time"

	"github.com/iomesh/iomesh/storaged/replication"
	"github.com/iomesh/iomesh/storaged/target"
)

var (
	allPlanted   = flag.Bool("planted", false, "play all planted bugs, not only those that are found at once")
	plantedSeeds = flag.Uint64("planted-seeds", 0, "play at most so many seeds for each planted bug, instead of what it is known to need")
)

// planted are faults of the parts that the simulator of the core does not have, and some that it has, with the number of seeds, from 1 on, within which
// runs of the stated kind find each. tests/README.md has what was needed when they were written down.
var planted = []struct {
	name   string
	bug    replication.Bugs
	target target.Bug
	config func(seed uint64) Config
	seeds  uint64
}{
	{"unpublish without drain", 0, target.BugEarlyClose, withdrawals, 60},
	{"session reinstated before drain", 0, target.BugEarlyReinstatement, counting, 200},
	{"acknowledge when one member has it", replication.BugAckEarly, 0, Random, 40},
	{"no roll-forward at takeover", replication.BugNoRollForward, 0, Random, 400},
}

// reconnects are runs in which clients lose their connections while members are slow.
func reconnects(seed uint64) Config {
	c := Random(seed)
	c.Faults, c.Think = 12, 40*time.Millisecond
	c.Kinds = []FaultKind{FaultClientReset, FaultClientReset, FaultReset, FaultDiskStall, FaultDiskSlow}
	c.Overlap, c.Depth, c.Work = true, 4, nil
	return c
}

// counting are such runs with much COMPARE AND WRITE, which a later request must not overtake, and nothing else in the way.
func counting(seed uint64) Config {
	c := reconnects(seed)
	c.Counting, c.SlowDisks, c.Disks, c.Depth, c.Think, c.Faults = true, true, 1, 4, 20*time.Millisecond, 40
	c.Volumes = []VolumeConfig{{Replicas: 2, SizeBytes: 16 << 20, Clients: 2}}
	c.Kinds = []FaultKind{FaultClientReset}
	return c
}

// withdrawals are runs in which clients at work lose their grants while members are slow.
func withdrawals(seed uint64) Config {
	c := reconnects(seed)
	c.Kinds = []FaultKind{FaultDiskStall, FaultDiskSlow, FaultReset}
	c.Work = []WorkKind{WorkWithdraw}
	return c
}

// quick is how many seeds a planted bug may need to be played in every run of the tests.
const quick = 10

func TestPlantedBugsAreFound(t *testing.T) {
	for _, b := range planted {
		t.Run(b.name, func(t *testing.T) {
			seeds := b.seeds
			if seeds > quick && !*allPlanted {
				t.Skipf("takes up to %d seeds: play it with -planted", seeds)
			}
			if *plantedSeeds > 0 {
				seeds = *plantedSeeds
			}
			for seed := uint64(1); seed <= seeds; seed++ {
				c := b.config(seed)
				c.Bugs, c.TargetBug = b.bug, b.target
				var bad error
				t.Run(fmt.Sprint(seed), func(t *testing.T) { _, _, bad = play(t, c) })
				var v *Violation
				if errors.As(bad, &v) {
					t.Logf("found by seed %d: %s", seed, v.What)
					return
				}
			}
			t.Errorf("not found within %d seeds", seeds)
		})
	}
}
