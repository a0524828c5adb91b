package meta

import (
	"maps"
	"math"
	"slices"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
)

// state is the content of the metadata in memory. It has no lock; mirror guards it.
type state struct {
	revision     int64
	cluster      metadb.Cluster
	leader       metadb.Leader
	chunks       map[block.ChunkID]metadb.Chunk
	nodes        map[string]metadb.Node
	disks        map[block.DiskID]metadb.Disk
	volumes      map[block.VolumeID]metadb.Volume
	names        map[string]metadb.Name
	owners       map[block.VolumeID]metadb.Owner
	extents      map[block.VolumeID][]metadb.Extent // by index; Revision 0 = not recorded
	grants       map[block.VolumeID]map[string]metadb.Grant
	snapshots    map[block.SnapshotID]metadb.Snapshot
	reservations map[block.VolumeID]metadb.Reservation
	tombstones   map[block.VolumeID]metadb.Tombstone

	// Derived from extents: what disks hold, and the revision of each volume's last change of a set.
	usage   map[block.DiskID]diskUsage
	charges map[block.VolumeID]charge // by which usage was counted
	changed map[block.VolumeID]int64
}

// diskUsage counts what the sets name on a disk.
type diskUsage struct {
	members, absent int
	thinBytes       uint64 // provisioned
	thickBytes      uint64
}

// charge is what decides how many bytes an extent of a volume provisions on each of its disks.
type charge struct {
	thick     bool
	sizeBytes uint64
}

// unknown is the charge of extents whose volume is not known: its record may come later, or be gone already.
var unknown = charge{sizeBytes: math.MaxUint64}

func (c charge) bytes(i block.ExtentIndex) uint64 {
	begin := uint64(i) * block.ExtentSizeBytes
	return min(block.ExtentSizeBytes, max(c.sizeBytes, begin)-begin)
}

func newState() *state {
	return &state{
		chunks: map[block.ChunkID]metadb.Chunk{}, nodes: map[string]metadb.Node{}, disks: map[block.DiskID]metadb.Disk{},
		volumes: map[block.VolumeID]metadb.Volume{}, names: map[string]metadb.Name{}, owners: map[block.VolumeID]metadb.Owner{},
		extents: map[block.VolumeID][]metadb.Extent{}, grants: map[block.VolumeID]map[string]metadb.Grant{},
		snapshots: map[block.SnapshotID]metadb.Snapshot{}, reservations: map[block.VolumeID]metadb.Reservation{},
		tombstones: map[block.VolumeID]metadb.Tombstone{}, usage: map[block.DiskID]diskUsage{},
		changed: map[block.VolumeID]int64{}, charges: map[block.VolumeID]charge{},
	}
}

// extentsMax bounds the extent index believed from a record: 64 TiB. Volumes are not made larger.
const extentsMax = 1 << 16

func (s *state) apply(u metadb.Update) {
	if u.Reset {
		*s = *newState()
	}
	// Volumes first: whether an extent counts as thin or thick is the volume's property.
	for _, r := range u.Put {
		if v, ok := r.(metadb.Volume); ok {
			s.volumes[v.ID] = v
			s.recharge(v.ID, charge{!v.Thin, v.SizeBytes})
		}
	}
	for _, r := range u.Put {
		s.put(r)
	}
	for _, r := range u.Deleted {
		s.delete(r)
	}
	s.revision = u.Revision
}

func (s *state) put(r metadb.Record) {
	switch r := r.(type) {
	case metadb.Cluster:
		s.cluster = r
	case metadb.Leader:
		s.leader = r
	case metadb.Chunk:
		s.chunks[r.ID] = r
	case metadb.Node:
		s.nodes[r.Name] = r
	case metadb.Disk:
		s.disks[r.ID] = r
	case metadb.Name:
		s.names[r.Name] = r
	case metadb.Owner:
		s.owners[r.Volume] = r
	case metadb.Extent:
		s.setExtent(r.ID, r)
	case metadb.Grant:
		if s.grants[r.Volume] == nil {
			s.grants[r.Volume] = map[string]metadb.Grant{}
		}
		s.grants[r.Volume][r.Initiator] = r
	case metadb.Snapshot:
		s.snapshots[r.ID] = r
	case metadb.Reservation:
		s.reservations[r.Volume] = r
	case metadb.Tombstone:
		s.tombstones[r.Volume] = r
	}
}

func (s *state) delete(r metadb.Record) {
	switch r := r.(type) {
	case metadb.Chunk:
		delete(s.chunks, r.ID)
	case metadb.Node:
		delete(s.nodes, r.Name)
	case metadb.Disk:
		delete(s.disks, r.ID)
	case metadb.Volume:
		delete(s.volumes, r.ID)
		delete(s.changed, r.ID)
		s.recharge(r.ID, unknown)
	case metadb.Name:
		delete(s.names, r.Name)
	case metadb.Owner:
		delete(s.owners, r.Volume)
	case metadb.Extent:
		s.setExtent(r.ID, metadb.Extent{})
	case metadb.Grant:
		delete(s.grants[r.Volume], r.Initiator)
		if len(s.grants[r.Volume]) == 0 {
			delete(s.grants, r.Volume)
		}
	case metadb.Snapshot:
		delete(s.snapshots, r.ID)
	case metadb.Reservation:
		delete(s.reservations, r.Volume)
	case metadb.Tombstone:
		delete(s.tombstones, r.Volume)
	}
}

func (s *state) setExtent(id block.ExtentID, e metadb.Extent) {
	if id.Index >= extentsMax {
		return
	}
	list := s.extents[id.Volume]
	s.changed[id.Volume] = max(s.changed[id.Volume], e.Revision)
	if int(id.Index) < len(list) {
		s.count(&list[id.Index], -1)
	}
	if e.Revision == 0 {
		if int(id.Index) < len(list) {
			list[id.Index] = metadb.Extent{}
		}
		for len(list) > 0 && list[len(list)-1].Revision == 0 {
			list = list[:len(list)-1]
		}
		if len(list) == 0 {
			delete(s.extents, id.Volume)
			return
		}
		s.extents[id.Volume] = list
		return
	}
	if need := int(id.Index) + 1; need > len(list) {
		list = append(list, make([]metadb.Extent, need-len(list))...)
	}
	list[id.Index] = e
	s.extents[id.Volume] = list
	s.count(&list[id.Index], 1)
}

// recharge counts the extents of a volume anew when what they provision changes.
func (s *state) recharge(id block.VolumeID, c charge) {
	old, ok := s.charges[id]
	if !ok {
		old = unknown
	}
	if c == old {
		return
	}
	list := s.extents[id]
	for i := range list {
		s.count(&list[i], -1)
	}
	if s.charges[id] = c; c == unknown {
		delete(s.charges, id)
	}
	for i := range list {
		s.count(&list[i], 1)
	}
}

func (s *state) count(e *metadb.Extent, sign int) {
	if e.Revision == 0 {
		return
	}
	c, ok := s.charges[e.ID.Volume]
	if !ok {
		c = unknown
	}
	add := func(id block.DiskID, members, absent int) {
		u := s.usage[id]
		u.members += sign * members
		u.absent += sign * absent
		// Unsigned arithmetic wraps, so adding the negative is subtraction.
		if n := uint64(sign) * c.bytes(e.ID.Index); c.thick {
			u.thickBytes += n
		} else {
			u.thinBytes += n
		}
		if u == (diskUsage{}) {
			delete(s.usage, id)
		} else {
			s.usage[id] = u
		}
	}
	for _, m := range e.Members {
		add(m.Disk, 1, 0)
	}
	for _, a := range e.Absent {
		add(a.Disk, 0, 1)
	}
}

// chunkOfNode returns the chunk registered for a node.
func (s *state) chunkOfNode(node string) (metadb.Chunk, bool) {
	for _, c := range s.chunks {
		if c.Node == node {
			return c, true
		}
	}
	return metadb.Chunk{}, false
}

func (s *state) nodeOf(id block.ChunkID) string { return s.chunks[id].Node }

func (s *state) maintenance(id block.ChunkID) bool {
	return s.nodes[s.chunks[id].Node].Mode == metadb.ModeMaintenance
}

// sortedVolumes returns the volumes by name, then identity.
func (s *state) sortedVolumes() []metadb.Volume {
	return slices.SortedFunc(maps.Values(s.volumes), func(a, b metadb.Volume) int {
		if a.Name != b.Name {
			if a.Name < b.Name {
				return -1
			}
			return 1
		}
		return slices.Compare(a.ID[:], b.ID[:])
	})
}

// snapshotsOf returns the snapshots of a volume, internal ones included, oldest view first.
func (s *state) snapshotsOf(id block.VolumeID) []metadb.Snapshot {
	var out []metadb.Snapshot
	for _, sn := range s.snapshots {
		if sn.Volume == id {
			out = append(out, sn)
		}
	}
	slices.SortFunc(out, func(a, b metadb.Snapshot) int {
		if a.SnapSeq != b.SnapSeq {
			return int(a.SnapSeq) - int(b.SnapSeq)
		}
		return slices.Compare(a.ID[:], b.ID[:])
	})
	return out
}

// grantsOf returns the grants of a volume by initiator.
func (s *state) grantsOf(id block.VolumeID) []metadb.Grant {
	return slices.SortedFunc(maps.Values(s.grants[id]), func(a, b metadb.Grant) int {
		if a.Initiator < b.Initiator {
			return -1
		}
		return 1
	})
}
