package stacksim

import (
	"math/rand/v2"
	"sync"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"

	"github.com/iomesh/iomesh/storaged/store/vdisk"
)

// FaultKind is a kind of fault.
type FaultKind uint8

// The faults. Each ends by itself after a time drawn for it.
const (
	// FaultPower cuts the power of a node: its disks keep what was flushed and any part of the rest, nobody is told.
	FaultPower FaultKind = iota
	// FaultKill ends a chunk's process: the disks keep everything, its connections are reset.
	FaultKill
	// FaultFreeze stops a node's process; its clock goes on.
	FaultFreeze
	// FaultPause stops a node with its clock, as a virtual machine that is paused.
	FaultPause
	// FaultOneWay loses what one node sends to another.
	FaultOneWay
	// FaultSplit loses what two nodes send to each other.
	FaultSplit
	// FaultIsolate cuts a node off from everybody: nodes, metadata and clients.
	FaultIsolate
	// FaultReset breaks the connections between two nodes.
	FaultReset
	// FaultClientReset breaks the connections of a client.
	FaultClientReset
	// FaultClientCut cuts a client off from a node.
	FaultClientCut
	// FaultEtcdStall, FaultEtcdMute and FaultEtcdDeny are of the way of one node or member to etcd; FaultEtcdDown of all.
	FaultEtcdStall
	FaultEtcdMute
	FaultEtcdDeny
	FaultEtcdDown
	// FaultCompact compacts the metadata, so that watches that are behind have to begin anew.
	FaultCompact
	// FaultElect makes another member the leader of the metadata.
	FaultElect
	// FaultLeaderKill kills the leading member.
	FaultLeaderKill
	// FaultDiskStall keeps a disk from answering, FaultDiskSlow makes it slow.
	FaultDiskStall
	FaultDiskSlow
	// FaultAllPower cuts the power of all nodes.
	FaultAllPower
	// FaultDiskDead makes every write and flush of a disk fail, for good; a new disk takes its place.
	FaultDiskDead
	// FaultRot flips a bit on one disk of the run.
	FaultRot
	faultKinds
)

var faultNames = [faultKinds]string{"power loss", "kill", "freeze", "pause", "one-way cut", "split", "isolation", "reset", "client reset", "client cut", "etcd stalls",
	"etcd is mute", "etcd denies", "etcd is down", "compaction", "election", "meta leader is killed", "disk stalls", "disk is slow", "all power lost", "disk dies", "rot"}

func (k FaultKind) String() string { return faultNames[k] }

// faults plays the faults of the run, one after the other with pauses that may be short, so that some meet.
func (w *World) faults() {
	rng := w.fork()
	if len(w.cfg.Kinds) == 0 || w.cfg.Faults == 0 {
		<-w.ctx.Done()
		return
	}
	var running sync.WaitGroup
	defer running.Wait()
	gap := w.cfg.Length / time.Duration(w.cfg.Faults+1)
	for range w.cfg.Faults {
		if pause(w.ctx, gap/2+time.Duration(rng.Int64N(int64(gap)))) != nil {
			return
		}
		k := w.cfg.Kinds[rng.IntN(len(w.cfg.Kinds))]
		w.count(&w.stats.Faults)
		if w.cfg.Overlap {
			rng := w.fork()
			running.Go(func() { w.fault(k, rng) })
			continue
		}
		w.fault(k, rng)
	}
	<-w.ctx.Done()
}

// between draws a time.
func between(rng *rand.Rand, lo, hi time.Duration) time.Duration {
	return lo + time.Duration(rng.Int64N(int64(hi-lo)))
}

// last waits for the end of a fault, or of the load.
func (w *World) last(k FaultKind, what string, d time.Duration) {
	w.tracef("FAULT %s: %s for %s", k, what, d)
	_ = pause(w.ctx, d)
	w.tracef("END of %s: %s", k, what)
}

// long draws how long a fault lasts: mostly about as long as the time-outs, some much shorter.
func long(rng *rand.Rand) time.Duration {
	if rng.IntN(3) == 0 {
		return between(rng, 20*time.Millisecond, time.Second)
	}
	return between(rng, time.Second, 6*time.Second)
}

func (w *World) fault(k FaultKind, rng *rand.Rand) {
	n := w.nodes[rng.IntN(len(w.nodes))]
	o := w.nodes[rng.IntN(len(w.nodes))]
	for o == n {
		o = w.nodes[rng.IntN(len(w.nodes))]
	}
	d := long(rng)
	switch k {
	case FaultPower, FaultKill:
		how := powerLoss
		if k == FaultKill {
			how = killed
		}
		n.stop(how)
		w.last(k, n.name, d)
		n.start()
	case FaultAllPower:
		for _, n := range w.nodes {
			n.stop(powerLoss)
		}
		w.last(k, "all", d)
		for _, n := range w.nodes {
			n.start()
			_ = pause(w.ctx, between(rng, 0, 500*time.Millisecond))
		}
	case FaultFreeze, FaultPause:
		if k == FaultPause {
			n.stopClock(true)
		}
		n.freeze(true)
		w.last(k, n.name, d)
		n.stopClock(false)
		n.freeze(false)
	case FaultOneWay, FaultSplit:
		w.net.setCut(n.host, o.host, true)
		if k == FaultSplit {
			w.net.setCut(o.host, n.host, true)
		}
		w.last(k, n.name+" to "+o.name, d)
		w.net.setCut(n.host, o.host, false)
		w.net.setCut(o.host, n.host, false)
	case FaultIsolate:
		var others []*host
		w.net.mu.Lock()
		for _, h := range w.net.hosts {
			if h != n.host {
				others = append(others, h)
			}
		}
		w.net.mu.Unlock()
		cut := func(on bool) {
			for _, h := range others {
				w.net.setCut(h, n.host, on)
				w.net.setCut(n.host, h, on)
			}
		}
		cut(true)
		n.run.etcd.set(etcdStalled)
		w.last(k, n.name, d)
		n.run.etcd.set(etcdUp)
		cut(false)
	case FaultReset:
		w.tracef("FAULT %s: %s and %s", k, n.name, o.name)
		w.net.resetSome(n.host, o.host)
	case FaultClientReset, FaultClientCut:
		v := w.volumes[rng.IntN(len(w.volumes))]
		c := v.clients[rng.IntN(len(v.clients))]
		if k == FaultClientReset {
			w.tracef("FAULT %s: %s", k, c.name)
			for _, n := range w.nodes {
				w.net.resetSome(c.proc.host, n.host)
			}
			return
		}
		w.net.setCut(n.host, c.proc.host, true)
		if rng.IntN(2) == 0 {
			w.net.setCut(c.proc.host, n.host, true)
		}
		w.last(k, c.name+" and "+n.name, d)
		w.net.setCut(n.host, c.proc.host, false)
		w.net.setCut(c.proc.host, n.host, false)
	case FaultEtcdStall, FaultEtcdMute, FaultEtcdDeny:
		s := map[FaultKind]etcdState{FaultEtcdStall: etcdStalled, FaultEtcdMute: etcdMute, FaultEtcdDeny: etcdDenying}[k]
		r, who := n.run, n.name
		if rng.IntN(3) == 0 {
			m := w.members[rng.IntN(len(w.members))]
			r, who = m.run, m.name()
		}
		r.etcd.set(s)
		w.last(k, who, d)
		r.etcd.set(etcdUp)
	case FaultEtcdDown:
		set := func(s etcdState) {
			for _, n := range w.nodes {
				n.run.etcd.set(s)
			}
			for _, m := range w.members {
				m.run.etcd.set(s)
			}
		}
		set(etcdStalled)
		w.last(k, "all", d)
		set(etcdUp)
	case FaultCompact:
		w.etcd.mu.Lock()
		rev := w.etcd.revision
		w.etcd.mu.Unlock()
		w.tracef("FAULT %s: at %d", k, rev)
		w.etcd.compact(rev - int64(rng.IntN(5)))
	case FaultElect:
		m := rng.IntN(len(w.members))
		w.tracef("FAULT %s: %s", k, w.members[m].name())
		w.raft.elect(types.ID(m + 1))
	case FaultLeaderKill:
		i := int(w.raft.leaderNow()) - 1
		if i < 0 {
			return
		}
		m := w.members[i]
		m.stop()
		w.tracef("FAULT %s: %s", k, m.name())
		w.raft.elect(0)
		_ = pause(w.ctx, between(rng, 700*time.Millisecond, 1500*time.Millisecond))
		w.raft.elect(types.ID((i+1)%len(w.members) + 1))
		w.last(k, m.name(), d)
		m.start()
	case FaultDiskStall, FaultDiskSlow:
		all := n.all()
		x := all[rng.IntN(len(all))]
		if k == FaultDiskStall {
			x.hold(true)
		} else {
			x.setSpeed(diskSlow)
		}
		w.last(k, x.name, d)
		x.hold(false)
		x.setSpeed(diskFast)
	case FaultDiskDead:
		all := n.all()
		x := all[rng.IntN(len(all))]
		x.fail(vdisk.OpWrite)
		x.fail(vdisk.OpFlush)
		w.last(k, x.name, d)
		if err := n.addDisk(); err != nil {
			w.fail("a disk cannot be added: %v", err)
		}
	case FaultRot:
		all := w.nodes[0].all()
		x := all[rng.IntN(len(all))]
		w.tracef("FAULT %s: %s at %d", k, x.name, x.rot())
	}
}
