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
}{
	{"skip the epoch check", replication.BugSkipEpochCheck, 4000},
	{"acknowledge when one member has it", replication.BugAckEarly, 4000},
	{"acknowledge before the set change is recorded", replication.BugAckBeforeSetChange, 4000},
	{"forget a dirty range in resync", replication.BugForgetDirty, 4000},
	{"ignore the returner's window", replication.BugIgnoreReturnersWindow, 4000},
	{"count a promise from the arrival of the grant", replication.BugLeaseMargin, 4000},
	{"roll forward from a stale replica", replication.BugRollStale, 4000},
	{"take late writes of an old connection", replication.BugLateWrite, 4000},
	{"remove the last member", replication.BugRemoveLast, 4000},
	{"copies overwrite newer blocks", replication.BugCopyOverwrites, 4000},
	{"snapshot without barrier", replication.BugSnapshotWithoutBarrier, 4000},
	{"release without drain", replication.BugReleaseWithoutDrain, 4000},
	{"no roll-forward at takeover", replication.BugNoRollForward, 4000},
	{"reads show what is not on all members", replication.BugReadUncommitted, 4000},
	{"reads without promises", replication.BugNoLeaseCheck, 4000},
	{"add a returner before its copies are done", replication.BugJoinTooEarly, 4000},
	{"overlapping writes in flight together", replication.BugOverlap, 4000},
	{"forget promises over a restart", replication.BugNoQuiet, 4000},
	{"no confirmation of reads with several initiators", replication.BugNoConfirm, 4000},
}

func TestPlantedBugsAreFound(t *testing.T) {
	for _, b := range planted {
		t.Run(b.name, func(t *testing.T) {
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
