package timeouts

import (
	"testing"
	"time"
)

func TestLadderIsAscending(t *testing.T) {
	steps := []struct {
		name string
		d    time.Duration
	}{
		{"Heartbeat", Heartbeat}, {"DiskStall", DiskStall}, {"ReplicaDrop", ReplicaDrop}, {"OwnerDead", OwnerDead},
		{"Lease", Lease}, {"WriteWait", WriteWait}, {"InitiatorAbort", InitiatorAbort}, {"Replacement", Replacement},
	}
	for i := 1; i < len(steps); i++ {
		if steps[i-1].d >= steps[i].d {
			t.Errorf("%s (%s) is not shorter than %s (%s)", steps[i-1].name, steps[i-1].d, steps[i].name, steps[i].d)
		}
	}
}

func TestMarginsBetweenSteps(t *testing.T) {
	if Lease < 5*Heartbeat {
		t.Error("a lease must survive several lost heartbeats")
	}
	if LeaseSkew*20 < Lease {
		t.Error("the skew margin is below 5 % of the lease")
	}
	if Replacement < 120*time.Second {
		t.Error("initiators must hold I/O for at least 120 s")
	}
	if OwnerDoubt <= Lease+ReplicaDrop {
		t.Error("an owner is named again before it can have been replaced")
	}
	if NOPInterval+NOPTimeout > 4*time.Second {
		t.Error("an initiator would notice a frozen owner too late for the bar of 5 s")
	}
}
