package sim

import (
	"testing"

	"github.com/iomesh/iomesh/storaged/replication"
)

// planted lists the faults that can be planted in the core and the number of seeds, from 1 on, within which the normal run finds
// each. The numbers are several times what was needed when they were written down; tests/README.md has those.
var planted = []struct {
	name  string
	bug   replication.Bugs
	seeds uint64
}{
	{"skip the epoch check", replication.BugSkipEpochCheck, 4000},
	{"acknowledge when one member has it", replication.BugAckEarly, 50},
	{"acknowledge before the set change is recorded", replication.BugAckBeforeSetChange, 2000},
	{"forget a dirty range in resync", replication.BugForgetDirty, 50},
	{"ignore the returner's window", replication.BugIgnoreReturnersWindow, 1000},
	{"count a promise too long", replication.BugLeaseMargin, 4000},
	{"roll forward from a stale replica", replication.BugRollStale, 3000},
	{"take late writes of an old connection", replication.BugLateWrite, 2000},
	{"remove the last member", replication.BugRemoveLast, 500},
	{"a delta counts as full", replication.BugDeltaAsFull, 100},
	{"copies overwrite newer blocks", replication.BugCopyOverwrites, 1000},
	{"snapshot without barrier", replication.BugSnapshotWithoutBarrier, 200},
	{"release without drain", replication.BugReleaseWithoutDrain, 1000},
	{"no roll-forward at takeover", replication.BugNoRollForward, 500},
	{"reads show what is not on all members", replication.BugReadUncommitted, 2000},
	{"reads without promises", replication.BugNoLeaseCheck, 500},
	{"add a returner before its copies are done", replication.BugJoinTooEarly, 50},
	{"overlapping writes in flight together", replication.BugOverlap, 100},
	{"no confirmation of reads with several initiators", replication.BugNoConfirm, 2000},
}

func TestPlantedBugsAreFound(t *testing.T) {
	for _, b := range planted {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			for seed := uint64(1); seed <= b.seeds; seed++ {
				c := Random(seed)
				c.Bugs = b.bug
				if v, _ := Run(c); v != nil {
					t.Logf("found by seed %d: %s", seed, v.What)
					return
				}
			}
			t.Errorf("not found within %d seeds", b.seeds)
		})
	}
}
