package sim

import (
	"testing"

	"github.com/iomesh/iomesh/storaged/replication"
)

// planted lists the faults that can be planted in the core and the number of seeds, from 1 on, within which the normal run finds
// each. The numbers are several times what was needed when they were written down.
var planted = []struct {
	name  string
	bug   replication.Bugs
	seeds uint64
	// direct, if not nil, narrows the runs: the fault needs a rare combination.
	direct func(*Config)
}{
	{"skip the epoch check", replication.BugSkipEpochCheck, 1500, nil},
	{"acknowledge when one member has it", replication.BugAckEarly, 20, nil},
	{"acknowledge before the set change is recorded", replication.BugAckBeforeSetChange, 4000, nil},
	{"forget a dirty range in resync", replication.BugForgetDirty, 20, nil},
	{"ignore the returner's window", replication.BugIgnoreReturnersWindow, 1000, nil},
	{"count a promise too long", replication.BugLeaseMargin, 2000, nil},
	{"roll forward from a stale replica", replication.BugRollStale, 500, nil},
	{"take late writes of an old connection", replication.BugLateWrite, 500, nil},
	{"remove the last member", replication.BugRemoveLast, 500, nil},
	{"a delta counts as full", replication.BugDeltaAsFull, 1000, nil},
	{"copies overwrite newer blocks", replication.BugCopyOverwrites, 300, nil},
	{"snapshot without barrier", replication.BugSnapshotWithoutBarrier, 50, nil},
	{"release without drain", replication.BugReleaseWithoutDrain, 50, nil},
	{"no roll-forward at takeover", replication.BugNoRollForward, 200, nil},
	{"reads show what is not on all members", replication.BugReadUncommitted, 2000, nil},
	{"reads without promises", replication.BugNoLeaseCheck, 2000, nil},
	{"add a returner before its copies are done", replication.BugJoinTooEarly, 20, nil},
	{"overlapping writes in flight together", replication.BugOverlap, 50, nil},
	{"no confirmation of reads with several initiators", replication.BugNoConfirm, 4000, nil},
}

func TestPlantedBugsAreFound(t *testing.T) {
	for _, b := range planted {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			for seed := uint64(1); seed <= b.seeds; seed++ {
				c := Random(seed)
				c.Bugs = b.bug
				if b.direct != nil {
					b.direct(&c)
				}
				if v, _ := Run(c); v != nil {
					t.Logf("found by seed %d: %s", seed, v.What)
					return
				}
			}
			t.Errorf("not found within %d seeds", b.seeds)
		})
	}
}
