package meta

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
	"github.com/iomesh/iomesh/storaged/timeouts"
)

// set makes an extent whose members are on these chunks; disk c is the disk of chunk c.
func set(index int, chunks ...block.ChunkID) metadb.Extent {
	e := metadb.Extent{ID: block.ExtentID{Volume: block.VolumeID{1}, Index: block.ExtentIndex(index)}, Generation: 1, Revision: 5}
	for _, c := range chunks {
		e.Members = append(e.Members, metadb.Member{Disk: block.DiskID{byte(c)}, Chunk: c})
	}
	return e
}

func online(nodes ...block.ChunkID) map[block.ChunkID]chunkFact {
	out := map[block.ChunkID]chunkFact{}
	for _, c := range nodes {
		out[c] = chunkFact{Node: "n" + c.String(), Present: true, Settled: true}
	}
	return out
}

func with(m map[block.ChunkID]chunkFact, id block.ChunkID, edit func(*chunkFact)) map[block.ChunkID]chunkFact {
	f := m[id]
	edit(&f)
	m[id] = f
	return m
}

func TestChooseOwner(t *testing.T) {
	exclusive := func(node string) []metadb.Grant {
		return []metadb.Grant{{Mode: metadb.AccessExclusive, Node: node}}
	}
	two := []metadb.Extent{set(0, 1, 2, 3), set(1, 1, 2, 4)}
	delta := []metadb.Extent{{Members: []metadb.Member{{Chunk: 1}, {Chunk: 2, Kind: metadb.KindDelta}}}}
	for _, c := range []struct {
		name    string
		extents []metadb.Extent
		grants  []metadb.Grant
		chunks  map[block.ChunkID]chunkFact
		avoid   block.ChunkID
		want    block.ChunkID
	}{
		{"the chunk with most extents", two, nil, online(1, 3, 4), 0, 1},
		{"the exclusive grant's node before it", two, exclusive("n3"), online(1, 2, 3, 4), 0, 3},
		{"unless it holds nothing", two, exclusive("n9"), online(1, 9), 0, 1},
		{"unless the grant is being withdrawn", two, []metadb.Grant{{Mode: metadb.AccessExclusive, Node: "n3", Closing: true}}, online(2, 3), 0, 2},
		{"never one that is offline", two, nil, with(online(1, 2), 1, func(f *chunkFact) { f.Present = false }), 0, 2},
		{"never one without a replica", two, nil, online(8, 9), 0, 0},
		{"never one with a delta only", delta, nil, online(2), 0, 0},
		{"the failed one last", two, nil, online(1, 3), 1, 3},
		{"but the failed one rather than none", two, nil, online(1), 1, 1},
		{"one in maintenance only if there is no other", two, nil, with(online(1, 3), 1, func(f *chunkFact) { f.Maintenance = true }), 0, 3},
		{"one that reaches the members", two, nil, with(online(1, 2), 1, func(f *chunkFact) { f.Unreachable = []block.ChunkID{2} }), 0, 2},
		{"an offline member does not count as cut off", two, nil, with(online(1, 3), 1, func(f *chunkFact) { f.Unreachable = []block.ChunkID{2} }), 0, 1},
		{"the least loaded of equals", two, nil, with(online(1, 2), 1, func(f *chunkFact) { f.Owned = 3 }), 0, 2},
		{"the lowest number of equals", two, nil, online(2, 1), 0, 1},
	} {
		if got := chooseOwner(c.extents, c.grants, c.chunks, c.avoid); got != c.want {
			t.Errorf("%s: chose %d, want %d", c.name, got, c.want)
		}
	}
}

func TestMoveTarget(t *testing.T) {
	grant := []metadb.Grant{{Mode: metadb.AccessExclusive, Node: "n2"}}
	all := []metadb.Extent{set(0, 1, 2), set(1, 1, 2, 3)}
	for _, c := range []struct {
		name   string
		owner  block.ChunkID
		grants []metadb.Grant
		chunks map[block.ChunkID]chunkFact
		want   block.ChunkID
	}{
		{"next to the initiator", 1, grant, online(1, 2), 2},
		{"not if it is there", 2, grant, online(1, 2), 0},
		{"not without a grant", 1, nil, online(1, 2), 0},
		{"not to a node that has just come back", 1, grant, with(online(1, 2), 2, func(f *chunkFact) { f.Settled = false }), 0},
		{"not to a node in maintenance", 1, grant, with(online(1, 2), 2, func(f *chunkFact) { f.Maintenance = true }), 0},
		{"not to a node that is not in sync everywhere", 1, []metadb.Grant{{Mode: metadb.AccessExclusive, Node: "n3"}}, online(1, 2, 3), 0},
		{"not to a node cut off from a member", 1, grant, with(online(1, 2, 3), 2, func(f *chunkFact) { f.Unreachable = []block.ChunkID{3} }), 0},
		{"off a node in maintenance", 1, nil, with(online(1, 2), 1, func(f *chunkFact) { f.Maintenance = true }), 2},
		{"not off it if there is no other", 1, nil, with(online(1), 1, func(f *chunkFact) { f.Maintenance = true }), 0},
	} {
		if got := moveTarget(c.owner, all, c.grants, c.chunks); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func TestPlanFailover(t *testing.T) {
	vol := block.VolumeID{1}
	s := newState()
	s.volumes[vol] = metadb.Volume{ID: vol, State: metadb.StateReady}
	s.owners[vol] = metadb.Owner{Volume: vol, Chunk: 1, Epoch: 6, Revision: 20}
	s.extents[vol] = []metadb.Extent{set(0, 1, 2)}
	s.chunks[1], s.chunks[2] = metadb.Chunk{ID: 1, Revision: 10}, metadb.Chunk{ID: 2, Revision: 11}

	if got := planFailover(s, online(1, 2), nil); got != nil {
		t.Errorf("a healthy owner: %v", got)
	}
	want := []metadb.Owner{{Volume: vol, Chunk: 2, Epoch: 7, Revision: 20}}
	if got := planFailover(s, online(2), map[block.ChunkID]bool{1: true}); !slices.Equal(got, want) {
		t.Errorf("a dead owner: %v", got)
	}
	if got := planFailover(s, online(), map[block.ChunkID]bool{1: true}); got != nil {
		t.Errorf("nobody can take it: %v", got)
	}
	s.chunks[1] = metadb.Chunk{ID: 1, Revision: 30}
	if got := planFailover(s, online(1, 2), nil); !slices.Equal(got, want) {
		t.Errorf("a restarted owner: %v", got)
	}
	if got := planFailover(s, online(1), nil); len(got) != 1 || got[0].Chunk != 1 || got[0].Epoch != 7 {
		t.Errorf("a restarted owner that is the only one: %v", got)
	}
	s.volumes[vol] = metadb.Volume{ID: vol, State: metadb.StateDeleting}
	if got := planFailover(s, online(1, 2), nil); got != nil {
		t.Errorf("a volume being deleted: %v", got)
	}
}

func TestPlanExtent(t *testing.T) {
	disk := func(n byte) block.DiskID { return block.DiskID{n} }
	ids := func(n ...byte) (out []block.DiskID) {
		for _, i := range n {
			out = append(out, disk(i))
		}
		return out
	}
	absent := func(e metadb.Extent, n ...byte) metadb.Extent {
		for _, i := range n {
			e.Absent = append(e.Absent, metadb.Absent{Disk: disk(i), Chunk: block.ChunkID(i)})
		}
		return e
	}
	for _, c := range []struct {
		name    string
		e       metadb.Extent
		health  map[byte]diskHealth // others are good
		joining []block.DiskID
		add     int
		remove  []block.DiskID
	}{
		{"a whole set needs nothing", set(0, 1, 2, 3), nil, nil, 0, nil},
		{"an absent replica on a good disk comes back by itself", absent(set(0, 1, 2), 3), nil, nil, 0, nil},
		{"one on an offline node is waited for", absent(set(0, 1, 2), 3), map[byte]diskHealth{3: diskReturning}, nil, 0, nil},
		{"one on a lost disk is replaced", absent(set(0, 1, 2), 3), map[byte]diskHealth{3: diskGone}, nil, 1, nil},
		{"not twice", absent(set(0, 1, 2), 3), map[byte]diskHealth{3: diskGone}, ids(4), 0, nil},
		{"again if the copy's disk is lost, too", absent(set(0, 1, 2), 3), map[byte]diskHealth{3: diskGone, 4: diskGone}, ids(4), 1, nil},
		{"replaced absent ones are forgotten", absent(set(0, 1, 2, 4), 3), map[byte]diskHealth{3: diskGone}, nil, 0, ids(3)},
		{"also if they could return", absent(set(0, 1, 2, 4), 3), nil, nil, 0, ids(3)},
		{"a drained disk's member is replaced first", set(0, 1, 2, 3), map[byte]diskHealth{3: diskLeaving}, nil, 1, nil},
		{"and stays while the copy runs", set(0, 1, 2, 3), map[byte]diskHealth{3: diskLeaving}, ids(4), 0, nil},
		{"and goes then", set(0, 1, 2, 3, 4), map[byte]diskHealth{3: diskLeaving}, nil, 0, ids(3)},
		{"a failed disk's member leaves at once", set(0, 1, 2, 3), map[byte]diskHealth{3: diskGone}, nil, 0, ids(3)},
		{"also before a drained one is replaced", set(0, 1, 2, 3), map[byte]diskHealth{2: diskLeaving, 3: diskGone}, nil, 0, ids(3)},
		{"but not while nobody knows that the others will return", set(0, 1, 2, 3), map[byte]diskHealth{1: diskReturning, 2: diskReturning, 3: diskGone}, nil, 1, nil},
		{"the last copy stays on its lost disk until there is another", set(0, 1), map[byte]diskHealth{1: diskGone}, nil, 3, nil},
		{"members beyond the factor leave, the newest first", set(0, 1, 2, 3, 4), nil, nil, 0, ids(4)},
		{"members on offline nodes are waited for", set(0, 1, 2, 3), map[byte]diskHealth{2: diskReturning, 3: diskReturning}, nil, 0, nil},
	} {
		health := func(d block.DiskID) diskHealth { return c.health[d[0]] }
		step, due := planExtent(&c.e, 3, health, c.joining)
		if due != (c.add > 0 || len(c.remove) > 0) || step.Add != c.add || !slices.Equal(step.Remove, c.remove) {
			t.Errorf("%s: add %d remove %v (due %v), want add %d remove %v", c.name, step.Add, step.Remove, due, c.add, c.remove)
		}
		if isWhole(&c.e, 3, health) && due {
			t.Errorf("%s: isWhole disagrees", c.name)
		}
		// Never fewer good copies than before, and never none (I15).
		left, good, fewer := 0, 0, false
		for _, m := range c.e.Members {
			h := health(m.Disk)
			switch {
			case slices.Contains(step.Remove, m.Disk):
				fewer = fewer || h != diskGone
			default:
				left++
				if h == diskGood {
					good++
				}
			}
		}
		if fewer && left < 3 || len(step.Remove) > 0 && good == 0 {
			t.Errorf("%s: leaves %d members, %d of them good", c.name, left, good)
		}
	}
}

func TestVolumeStatus(t *testing.T) {
	now := time.Unix(1000, 0)
	base := func() volumeFacts {
		return volumeFacts{
			Volume: metadb.Volume{ReplicaFactor: 3, MinReplicas: 2, State: metadb.StateReady}, Owner: metadb.Owner{Chunk: 1, Epoch: 4},
			Extents: []metadb.Extent{set(0, 1, 2, 3), set(1, 1, 2, 3)}, Chunks: online(1, 2, 3), Now: now, At: now,
			Report: &storagedv1.VolumeReport{Epoch: 4, Status: &storagedv1.VolumeStatus{}},
		}
	}
	for _, c := range []struct {
		name   string
		edit   func(*volumeFacts)
		health storagedv1.Health
		text   []string
	}{
		{"all in sync", func(*volumeFacts) {}, storagedv1.Health_HEALTH_OK, nil},
		{"in sync but not reported", func(f *volumeFacts) { f.Report = nil }, storagedv1.Health_HEALTH_OK, []string{"not reported yet"}},
		{"one of three away: no further loss may happen", func(f *volumeFacts) {
			f.Extents[1].Members = f.Extents[1].Members[:2]
			f.Extents[1].Absent = []metadb.Absent{{Chunk: 3}}
		}, storagedv1.Health_HEALTH_AT_RISK, []string{"1 of 2 extents have fewer than 3 replicas", "missing on n3", "bring back n3"}},
		{"one of three away where one is enough", func(f *volumeFacts) { f.Volume.MinReplicas = 1; f.Extents[1].Members = f.Extents[1].Members[:2] },
			storagedv1.Health_HEALTH_DEGRADED, []string{"1 of 2"}},
		{"being copied", func(f *volumeFacts) {
			f.Extents[0].Members = f.Extents[0].Members[:2]
			f.Report.Status.ResyncBytesLeft = 3 << 30
		}, storagedv1.Health_HEALTH_AT_RISK, []string{"none: 3 GiB are left to copy"}},
		{"below the minimum", func(f *volumeFacts) {
			f.Extents[0].Members = f.Extents[0].Members[:1]
			f.Extents[0].Absent = []metadb.Absent{{Chunk: 2}, {Chunk: 3}}
		}, storagedv1.Health_HEALTH_UNAVAILABLE, []string{"1 of 2 extents do not take writes", "need 2 full replicas", "bring back n2, n3"}},
		{"members whose nodes are offline do not count", func(f *volumeFacts) { delete(f.Chunks, 2); delete(f.Chunks, 3) },
			storagedv1.Health_HEALTH_UNAVAILABLE, []string{"2 of 2 extents"}},
		{"no owner", func(f *volumeFacts) { delete(f.Chunks, 1) }, storagedv1.Health_HEALTH_UNAVAILABLE, []string{"its owner, chunk 1"}},
		{"the owner knows of an extent that does not serve", func(f *volumeFacts) {
			f.Report.Status.ExtentsUnavailable, f.Report.Status.Reason, f.Report.Status.NextStep = 1, "needs disk X", "attach X"
		}, storagedv1.Health_HEALTH_UNAVAILABLE, []string{"needs disk X", "attach X"}},
		{"but not from an earlier epoch", func(f *volumeFacts) { f.Report.Epoch = 3; f.Report.Status.ExtentsUnavailable = 1 }, storagedv1.Health_HEALTH_OK, []string{"not reported"}},
		{"being deleted", func(f *volumeFacts) { f.Volume.State = metadb.StateDeleting }, storagedv1.Health_HEALTH_UNAVAILABLE, []string{"being deleted"}},
	} {
		f := base()
		c.edit(&f)
		st := volumeStatus(f)
		text := st.GetReason() + " | " + st.GetNextStep()
		if st.GetHealth() != c.health {
			t.Errorf("%s: %s (%s)", c.name, st.GetHealth(), text)
		}
		for _, want := range c.text {
			if !strings.Contains(text, want) {
				t.Errorf("%s: %q does not say %q", c.name, text, want)
			}
		}
	}
	// A stale report says how old it is, and its progress is not shown as the present.
	f := base()
	f.At = now.Add(-time.Minute)
	f.Report.Status.ResyncBytesLeft = 5
	if st := volumeStatus(f); !st.GetAsOf().AsTime().Equal(f.At) || st.GetResyncBytesLeft() != 0 {
		t.Errorf("stale report: %v", st)
	}
}

func TestClusterStatus(t *testing.T) {
	node := func(name, state string) *storagedv1.Node {
		return &storagedv1.Node{Name: name, State: state, Mode: "active"}
	}
	disk := func(state string) *storagedv1.Disk {
		return &storagedv1.Disk{Name: "d", Node: "n1", State: state, SizeBytes: 100, UsedBytes: 10}
	}
	member := func(name string, ok bool) *storagedv1.MetaMember {
		return &storagedv1.MetaMember{Name: name, Healthy: ok}
	}
	base := func() statusFacts {
		return statusFacts{
			Meta: []*storagedv1.MetaMember{member("a", true), member("b", true), member("c", true)}, Nodes: []*storagedv1.Node{node("n1", "Online")},
			Disks: []*storagedv1.Disk{disk("Active")}, Now: time.Unix(5, 0),
		}
	}
	volume := func(name string, h storagedv1.Health, reason string) *storagedv1.Volume {
		return &storagedv1.Volume{Name: name, SizeBytes: 10, ReplicaFactor: 3, Status: &storagedv1.VolumeStatus{Health: h, Reason: reason, NextStep: "fix " + name}}
	}
	for _, c := range []struct {
		name   string
		edit   func(*statusFacts)
		health storagedv1.Health
		reason string
		next   string
	}{
		{"healthy", func(*statusFacts) {}, storagedv1.Health_HEALTH_OK, "", ""},
		{"a member away of three: no further may go", func(f *statusFacts) { f.Meta[1].Healthy = false }, storagedv1.Health_HEALTH_AT_RISK, "1 of 3 meta members are not healthy: b", "start storaged meta on b"},
		{"a member away of five", func(f *statusFacts) { f.Meta = append(f.Meta, member("d", true), member("e", false)) }, storagedv1.Health_HEALTH_DEGRADED, "1 of 5", "start storaged meta on e"},
		{"a node offline", func(f *statusFacts) { f.Nodes = append(f.Nodes, node("n2", "Offline")) }, storagedv1.Health_HEALTH_DEGRADED, "nodes offline: n2", "start storaged on n2"},
		{"a node in maintenance is no fault", func(f *statusFacts) { f.Nodes[0].Mode = "maintenance" }, storagedv1.Health_HEALTH_OK, "nodes in maintenance: n1", ""},
		{"a failed disk", func(f *statusFacts) { f.Disks = append(f.Disks, disk("Failed")) }, storagedv1.Health_HEALTH_DEGRADED, "n1/d (failed)", "replace"},
		{"a missing disk of an offline node is the node's", func(f *statusFacts) { f.Nodes[0].State = "Offline"; f.Disks = append(f.Disks, disk("Missing")) }, storagedv1.Health_HEALTH_DEGRADED, "nodes offline: n1", "start storaged"},
		{"a full pool", func(f *statusFacts) { f.Disks[0].UsedBytes = 95 }, storagedv1.Health_HEALTH_DEGRADED, "95 % full", "add disks"},
		{"no node yet", func(f *statusFacts) { f.Nodes, f.Disks = nil, nil }, storagedv1.Health_HEALTH_OK, "no node has registered", "start storaged chunk"},
		{"no disk yet", func(f *statusFacts) { f.Disks = nil }, storagedv1.Health_HEALTH_OK, "no active disk", "add a disk"},
		{"the worst volume decides what to do", func(f *statusFacts) {
			f.Nodes = append(f.Nodes, node("n2", "Offline"))
			f.Volumes = []*storagedv1.Volume{volume("b", storagedv1.Health_HEALTH_UNAVAILABLE, "y"), volume("a", storagedv1.Health_HEALTH_UNAVAILABLE, "x"), volume("c", storagedv1.Health_HEALTH_DEGRADED, "z")}
		}, storagedv1.Health_HEALTH_UNAVAILABLE, "2 volumes unavailable, first a: x; nodes offline: n2; 1 volume without full redundancy, first c: z", "fix a"},
	} {
		f := base()
		c.edit(&f)
		st := clusterStatus(f)
		if st.GetHealth() != c.health || !strings.Contains(st.GetReason(), c.reason) || !strings.HasPrefix(st.GetNextStep(), c.next) || c.reason == "" && st.GetReason() != "" {
			t.Errorf("%s: %s, %q, %q", c.name, st.GetHealth(), st.GetReason(), st.GetNextStep())
		}
	}
}

func TestRegistryTellsDeadFromUnseen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(time.Now)
		if l := r.live(1); l.Dead || l.Present {
			t.Errorf("just after a take-over: %+v", l)
		}
		n := r.open(1, 77)
		if l := r.live(1); l.Dead || l.Present {
			t.Errorf("a stream without a report: %+v", l)
		}
		beat := func(full bool) bool {
			return r.report(n, &storagedv1.HeartbeatRequest{Chunk: 1, BootId: 77, Full: full})
		}
		beat(true)
		if l := r.live(1); !l.Present || l.Settled {
			t.Errorf("after the first report: %+v", l)
		}
		for range 40 {
			time.Sleep(timeouts.Heartbeat)
			beat(false)
		}
		if l := r.live(1); !l.Present || !l.Settled {
			t.Errorf("after %s of heartbeats: %+v", 40*timeouts.Heartbeat, l)
		}
		// Silence: dead after OwnerDead, not before.
		time.Sleep(timeouts.OwnerDead)
		if r.live(1).Dead {
			t.Error("dead too early")
		}
		time.Sleep(time.Millisecond)
		if l := r.live(1); !l.Dead || l.Present {
			t.Errorf("silent: %+v", l)
		}
		// It thaws: present again, but has to settle anew.
		beat(false)
		if l := r.live(1); !l.Present || l.Settled {
			t.Errorf("thawed: %+v", l)
		}
		// A broken stream has BrokenStream to come back.
		r.close(1, n)
		time.Sleep(timeouts.BrokenStream)
		if l := r.live(1); l.Dead || l.Present {
			t.Errorf("broken a moment ago: %+v", l)
		}
		time.Sleep(time.Millisecond)
		if !r.live(1).Dead {
			t.Error("a broken stream is not dead")
		}
		// A new stream supersedes the old one, whose reports and end mean nothing.
		old := n
		n = r.open(1, 78)
		if r.report(old, &storagedv1.HeartbeatRequest{Chunk: 1}) {
			t.Error("a superseded stream reports")
		}
		beat(true)
		r.close(1, old)
		if !r.live(1).Present {
			t.Error("the end of a superseded stream killed the chunk")
		}
		if !r.live(2).Dead {
			t.Error("a chunk that never came is not dead long after the take-over")
		}
	})
}

// A leader that has just taken over believes the others about a chunk it has not heard of, if they all say the same.
func TestRegistryBelievesTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegistry(time.Now)
		beat := func(id uint32, n uint64, unreachable ...uint32) {
			r.report(n, &storagedv1.HeartbeatRequest{Chunk: id, BootId: 1, Full: true, Unreachable: unreachable})
		}
		one := r.open(1, 1)
		beat(1, one, 3)
		if r.live(3).Dead {
			t.Error("dead by the word of one: it may be the one that is cut off")
		}
		two := r.open(2, 1)
		beat(2, two)
		if r.live(3).Dead {
			t.Error("dead although another reaches it")
		}
		beat(2, two, 3)
		if !r.live(3).Dead {
			t.Error("not dead although nobody reaches it")
		}
		three := r.open(3, 1)
		beat(3, three)
		if l := r.live(3); l.Dead || !l.Present {
			t.Errorf("it has reported: %+v", l)
		}
	})
}

func TestLearnedDisk(t *testing.T) {
	now := time.Unix(9, 0)
	id := block.DiskID{1}
	old := metadb.Disk{ID: id, Chunk: 1, Name: "d", SizeBytes: 100, MountCounter: 5, Revision: 3}
	rep := func(state string, counter uint64) *storagedv1.DiskReport {
		return &storagedv1.DiskReport{MountCounter: counter, Disk: &storagedv1.Disk{Name: "d", State: state, SizeBytes: 100}}
	}
	if d, _ := learned(metadb.Disk{}, 1, id, rep("Active", 1), false, now); d.State != metadb.DiskActive || d.SizeBytes != 100 {
		t.Errorf("new: %+v", d)
	}
	if d, _ := learned(metadb.Disk{}, 1, id, rep("Failed", 1), false, now); d.ID == id {
		t.Error("a failed disk was taken in")
	}
	if d, _ := learned(old, 1, id, rep("Active", 5), false, now); d != old {
		t.Errorf("unchanged: %+v", d)
	}
	if d, _ := learned(old, 1, id, rep("Active", 4), false, now); d.State != metadb.DiskFailed || !strings.Contains(d.Message, "rolled back") {
		t.Errorf("rolled back: %+v", d)
	}
	if d, _ := learned(old, 1, id, rep("Failed", 5), false, now); d.State != metadb.DiskFailed {
		t.Errorf("failed: %+v", d)
	}
	if d, _ := learned(old, 2, id, rep("Active", 6), false, now); d.Chunk != 2 || d.MountCounter != 6 {
		t.Errorf("moved to another node: %+v", d)
	}
	if d, _ := learned(old, 2, id, rep("Active", 6), true, now); d != old {
		t.Errorf("a copy elsewhere: %+v", d)
	}
	removed := old
	removed.State = metadb.DiskRemoved
	if d, _ := learned(removed, 1, id, rep("Active", 5), false, now); d.State != metadb.DiskRemoved {
		t.Errorf("a removed disk came back: %+v", d)
	}
}

func TestStateCountsWhatDisksHold(t *testing.T) {
	s := newState()
	vol := block.VolumeID{1}
	e := set(2, 1, 2)
	e.Absent = []metadb.Absent{{Disk: block.DiskID{3}}}
	thick := metadb.Volume{ID: vol, Name: "a", SizeBytes: 3 << 30}
	s.apply(metadb.Update{Reset: true, Put: []metadb.Record{e, thick}, Revision: 5})
	if u := s.usage[block.DiskID{1}]; u != (diskUsage{members: 1, thickBytes: 1 << 30}) {
		t.Errorf("member: %+v", u)
	}
	if u := s.usage[block.DiskID{3}]; u.absent != 1 {
		t.Errorf("absent: %+v", u)
	}
	e2 := set(2, 2, 4)
	e2.Revision = 6
	s.apply(metadb.Update{Put: []metadb.Record{e2}, Revision: 6})
	if _, ok := s.usage[block.DiskID{1}]; ok {
		t.Error("a member that left is counted")
	}
	if s.changed[vol] != 6 || len(s.extents[vol]) != 3 {
		t.Errorf("changed %d, %d extents", s.changed[vol], len(s.extents[vol]))
	}
	s.apply(metadb.Update{Deleted: []metadb.Record{metadb.Extent{ID: e.ID}}, Revision: 7})
	if len(s.usage) != 0 || len(s.extents) != 0 {
		t.Errorf("left: %v, %v", s.usage, s.extents)
	}
}
