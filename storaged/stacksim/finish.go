package stacksim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
	"github.com/iomesh/iomesh/storaged/store"
)

// heal ends all faults.
func (w *World) heal() {
	w.tracef("HEAL")
	w.net.mu.Lock()
	clear(w.net.cut)
	w.net.mu.Unlock()
	hosts := []*host{}
	for _, n := range w.nodes {
		hosts = append(hosts, n.host)
	}
	for _, m := range w.members {
		hosts = append(hosts, m.host)
	}
	for _, a := range hosts {
		for _, b := range hosts {
			w.net.setCut(a, b, false)
		}
	}
	for _, n := range w.nodes {
		n.stopClock(false)
		for _, d := range n.all() {
			d.hold(false)
			d.setSpeed(diskFast)
		}
		if n.run == nil {
			n.start()
		} else {
			n.freeze(false)
		}
	}
	for _, m := range w.members {
		if m.run == nil {
			m.start()
		}
		m.host.freeze(false)
		m.run.etcd.set(etcdUp)
	}
	if w.raft.leaderNow() == 0 {
		w.raft.elect(1)
	}
}

// unwell says what is not as it should be when nothing is wrong any more.
func (w *World) unwell() string {
	for _, v := range w.volumes {
		var got *storagedv1.Volume
		if err := w.ask(2*time.Second, func(ctx context.Context, c *grpc.ClientConn) (err error) {
			got, err = storagedv1.NewVolumesClient(c).GetVolume(ctx, &storagedv1.GetVolumeRequest{Id: v.id, Extents: true})
			return err
		}); err != nil {
			return err.Error()
		}
		st := got.Status
		if st.GetHealth() != storagedv1.Health_HEALTH_OK || st.ExtentsDegraded > 0 || st.ExtentsUnavailable > 0 {
			return fmt.Sprintf("volume %s: %s: %s", v.name, st.GetHealth(), st.GetReason())
		}
		// What a drain or a repair that was not needed in the end has left over goes by itself.
		c, err := w.content(v)
		if err != nil {
			return err.Error()
		}
		for i := range c.Extents {
			if n := len(c.Extents[i].Members); n != v.vc.Replicas {
				return fmt.Sprintf("volume %s extent %d has %d members", v.name, i, n)
			}
		}
	}
	return ""
}

// describe traces what the parts say about the volumes.
func (w *World) describe() {
	for _, v := range w.volumes {
		var got *storagedv1.Volume
		err := w.ask(2*time.Second, func(ctx context.Context, c *grpc.ClientConn) (err error) {
			got, err = storagedv1.NewVolumesClient(c).GetVolume(ctx, &storagedv1.GetVolumeRequest{Id: v.id, Extents: true})
			return err
		})
		w.tracef("volume %s: %v %v", v.name, got.GetStatus(), err)
		c, err := w.content(v)
		if err != nil {
			w.tracef("volume %s: %v", v.name, err)
			continue
		}
		w.tracef("volume %s: owner %+v", v.name, c.Owner)
		for i := range c.Extents {
			w.tracef("volume %s extent %d: %+v", v.name, i, c.Extents[i])
		}
	}
}

// content reads the records of a volume past all faults.
func (w *World) content(v *volume) (*metadb.VolumeContent, error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	id, err := block.ParseVolumeID(v.id)
	if err != nil {
		return nil, err
	}
	return newEtcdClient(ctx, w.etcd, w.fork()).db(w, "look").LoadVolume(ctx, id)
}

// readAll reads everything that was ever used.
func (w *World) readAll() {
	for _, v := range w.volumes {
		for _, c := range v.clients {
			if c.withdrawn {
				continue
			}
			ok := c.read(0, sharedBlocks) && c.readSectors(0, fineSectors)
			if ok {
				_, ok = c.readCounter()
			}
			if ok {
				ok = c.checkOwn(0, ownBlocks)
			}
			if !ok {
				w.fail("volume %s cannot be read by %s at the end", v.name, c.name)
				return
			}
		}
	}
}

// compareDisks opens the disks as they were left and compares all members of every set, in every view.
func (w *World) compareDisks() {
	if w.failed() {
		return
	}
	ctx := context.Background()
	stores := map[block.DiskID]*store.Store{}
	for _, n := range w.nodes {
		for _, d := range n.all() {
			if d.broken {
				continue
			}
			if _, err := store.Probe(d.sim); errors.Is(err, store.ErrBlank) {
				continue // it came too late to be used
			}
			s, err := store.Open(ctx, d.sim, store.Options{Log: w.log("compare")})
			if err != nil {
				w.fail("disk %s cannot be opened at the end: %v", d.name, err)
				return
			}
			defer s.Close()
			stores[s.Superblock().DiskID] = s
		}
	}
	for _, v := range w.volumes {
		c, err := w.content(v)
		if err != nil {
			w.fail("volume %s cannot be read from the metadata at the end: %v", v.name, err)
			return
		}
		for i := range c.Extents {
			w.compareExtent(v, c, &c.Extents[i], stores)
		}
	}
}

// rots reports whether bits are flipped in this run.
func (w *World) rots() bool { return slices.Contains(w.cfg.Kinds, FaultRot) }

// compareExtent compares the members of one set.
func (w *World) compareExtent(v *volume, c *metadb.VolumeContent, x *metadb.Extent, stores map[block.DiskID]*store.Store) {
	// A copy that was begun before the end of the faults and is not needed any more may have become a member since all was well: it leaves by itself.
	if len(x.Members) < v.vc.Replicas {
		w.fail("volume %s extent %d has %d members at the end", v.name, x.ID.Index, len(x.Members))
		return
	}
	views := append([]block.SnapSeq{block.LiveView}, c.Volume.Views...)
	for _, view := range views {
		var first []byte
		var firstInfo []store.BlockInfo
		for _, m := range x.Members {
			s := stores[m.Disk]
			if s == nil {
				w.fail("volume %s extent %d: member on disk %s, which is not there", v.name, x.ID.Index, m.Disk)
				return
			}
			rng := block.Range{Start: 0, Count: usedBlocks}
			if v.base > 0 && x.ID.Index == 0 {
				rng.Start, rng.Count = block.No(v.base), sharedBlocks/2
			}
			buf := make([]byte, rng.SizeBytes())
			info := make([]store.BlockInfo, rng.Count)
			if err := s.Read(x.ID, view, rng, buf, info); err != nil {
				w.fail("volume %s extent %d view %d on disk %s: %v", v.name, x.ID.Index, view, m.Disk, err)
				return
			}
			if first == nil {
				first, firstInfo = buf, info
				continue
			}
			for b := range info {
				if rotten := w.rots() && (info[b].State == store.Bad || firstInfo[b].State == store.Bad); rotten && info[b].State != firstInfo[b].State {
					continue // found when it is next read or scrubbed; the other copies are good
				}
				if info[b] != firstInfo[b] || !bytes.Equal(buf[b*block.Size:(b+1)*block.Size], first[b*block.Size:(b+1)*block.Size]) {
					w.fail("volume %s extent %d block %d view %d: members differ: %+v and %+v", v.name, x.ID.Index, int(rng.Start)+b, view, firstInfo[b], info[b])
					return
				}
			}
		}
	}
}
