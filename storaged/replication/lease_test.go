package replication

import (
	"testing"
	"time"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/timeouts"
)

// kinds lists what a call wants done.
func kinds(out []Effect) []EffectKind {
	var k []EffectKind
	for _, e := range out {
		k = append(k, e.Kind)
	}
	return k
}

func at(d time.Duration) Time { return Time(time.Hour + d) }

// granter returns the Lease of chunk 2, up for an hour, that has granted chunk 1 a promise at 0 s.
func granter(t *testing.T) (*Lease, Message) {
	t.Helper()
	l := NewLease(LeaseOptions{Self: 2, Incarnation: 5})
	out := l.Receive(at(0), 1, &Message{Kind: MsgLeaseRequest, Sent: 77, Incarnation: 3}, nil)
	if len(out) != 1 || out[0].Kind != EffSend || out[0].Msg.Kind != MsgLeaseGrant || out[0].Msg.Sent != 77 {
		t.Fatalf("no grant: %+v", out)
	}
	return l, out[0].Msg
}

var wantedEpoch = VolumeEpoch{Volume: block.VolumeID{1}, Epoch: 8}

func TestAHigherEpochWaitsForThePromise(t *testing.T) {
	l, _ := granter(t)
	if out := l.Wanted(at(time.Second), wantedEpoch, 1, 3, nil); len(out) != 0 {
		t.Fatalf("granted while promised: %v", kinds(out))
	}
	// Renewing the promise does not prolong the wait, because the volume is excluded from it.
	out := l.Receive(at(1900*time.Millisecond), 1, &Message{Kind: MsgLeaseRequest, Incarnation: 3}, nil)
	if m := out[0].Msg; m.More == nil || len(m.More.Volumes) != 1 || m.More.Volumes[0] != wantedEpoch {
		t.Fatalf("the grant does not exclude the volume: %+v", m)
	}
	if out := l.Tick(at(timeouts.Lease-1), nil); len(out) != 0 {
		t.Fatalf("freed too early: %v", kinds(out))
	}
	if out := l.Tick(at(timeouts.Lease), nil); len(out) != 1 || out[0].Kind != EffFree || out[0].Msg.Epoch != 8 {
		t.Fatalf("not freed at the end of the promise: %v", kinds(out))
	}
}

func TestAReleaseEndsTheWait(t *testing.T) {
	l, _ := granter(t)
	l.Wanted(at(0), wantedEpoch, 1, 3, nil)
	lower := VolumeEpoch{Volume: wantedEpoch.Volume, Epoch: 7}
	if out := l.Receive(at(1), 1, &Message{Kind: MsgLeaseRelease, More: &More{Volumes: []VolumeEpoch{lower}}}, nil); len(out) != 0 {
		t.Fatal("freed by the release of lower epochs only")
	}
	if out := l.Receive(at(2), 1, &Message{Kind: MsgLeaseRelease, More: &More{Volumes: []VolumeEpoch{wantedEpoch}}}, nil); len(out) != 1 || out[0].Kind != EffFree {
		t.Fatalf("not freed: %v", kinds(out))
	}
}

func TestAnUnbrokenRowKeepsItsChain(t *testing.T) {
	l, first := granter(t)
	out := l.Receive(at(timeouts.Lease-1), 1, &Message{Kind: MsgLeaseRequest, Incarnation: 3}, nil)
	if out[0].Msg.Chain != first.Chain {
		t.Error("the chain changed although the promise had not ended")
	}
	out = l.Receive(at(2*timeouts.Lease), 1, &Message{Kind: MsgLeaseRequest, Incarnation: 3}, nil)
	if out[0].Msg.Chain <= first.Chain {
		t.Error("the chain goes on although the promise had ended")
	}
	second := out[0].Msg.Chain
	out = l.Receive(at(2*timeouts.Lease+1), 1, &Message{Kind: MsgLeaseRequest, Incarnation: 4}, nil)
	if out[0].Msg.Chain <= second {
		t.Error("a new process of the holder continues the chain of the old one")
	}
	if out = l.Receive(at(2*timeouts.Lease+2), 1, &Message{Kind: MsgLeaseRequest, Incarnation: 3}, nil); len(out) != 0 {
		t.Error("a dead process of the holder got a promise")
	}
}

func TestARestartedGranterKeepsQuiet(t *testing.T) {
	l := NewLease(LeaseOptions{Self: 2, Incarnation: 6, Started: at(0)})
	if out := l.Wanted(at(0), wantedEpoch, 1, 3, nil); len(out) != 0 {
		t.Fatal("forgot that it may have promised")
	}
	if out := l.Tick(at(timeouts.Lease), nil); len(out) != 1 || out[0].Kind != EffFree {
		t.Fatalf("not freed after the quiet period: %v", kinds(out))
	}
	if out := l.Wanted(at(timeouts.Lease), VolumeEpoch{block.VolumeID{2}, 3}, 4, 4, nil); len(out) != 1 || out[0].Kind != EffFree {
		t.Error("the chunk that owned the volume before has to wait for itself")
	}
}

func TestTheOwnChunkEndsByStopping(t *testing.T) {
	l := NewLease(LeaseOptions{Self: 2, Incarnation: 6})
	out := l.Wanted(at(0), wantedEpoch, 2, 3, nil)
	if len(out) != 1 || out[0].Kind != EffExclude {
		t.Fatalf("the own owner is not told: %v", kinds(out))
	}
	if out = l.Tick(at(time.Minute), nil); len(out) != 0 {
		t.Fatal("freed by time, although the own owner has not stopped")
	}
	if out = l.Released(at(time.Minute), VolumeEpoch{wantedEpoch.Volume, 5}, nil); len(out) != 1 || out[0].Kind != EffExclude {
		t.Fatalf("the end of an older owner is not followed by the question for the rest: %v", kinds(out))
	}
	out = l.Released(at(time.Minute), wantedEpoch, nil)
	if len(out) != 1 || out[0].Kind != EffFree {
		t.Fatalf("not freed: %v", kinds(out))
	}
}

func TestAHolderStopsBeforeItCountsAPromise(t *testing.T) {
	l := NewLease(LeaseOptions{Self: 1, Incarnation: 3})
	sent := at(0)
	out := l.Receive(at(100*time.Millisecond), 2, &Message{Kind: MsgLeaseGrant, Sent: sent, Incarnation: 3, Chain: 9, More: &More{Volumes: []VolumeEpoch{wantedEpoch}}}, nil)
	if len(out) != 2 || out[0].Kind != EffExclude || out[1].Kind != EffExtend {
		t.Fatalf("wrong order: %v", kinds(out))
	}
	if want := sent.Add(timeouts.Lease - timeouts.LeaseSkew); out[1].Until != want {
		t.Errorf("promise counted until %d, want %d: from the sending of the request", out[1].Until, want)
	}
	if out = l.Receive(at(0), 2, &Message{Kind: MsgLeaseGrant, Sent: sent, Incarnation: 2, Chain: 8}, nil); len(out) != 0 {
		t.Error("a grant to a former process counts")
	}
}

func TestAPromiseNeverGoesBack(t *testing.T) {
	var p Promise
	p.Extend(100, 2)
	p.Extend(90, 2)
	p.Extend(500, 1)
	if u, c := p.Load(); u != 100 || c != 2 {
		t.Errorf("promise until %d in chain %d", u, c)
	}
	p.Extend(50, 3)
	if u, c := p.Load(); u != 50 || c != 3 {
		t.Errorf("a later chain is not taken: until %d in chain %d", u, c)
	}
}
