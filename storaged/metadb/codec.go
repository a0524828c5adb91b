package metadb

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/iomesh/iomesh/storaged/block"
)

// setMax bounds the members and absents of a set when decoding: far above any replica factor.
const setMax = 64

// marshal is deterministic, so that equal records have equal bytes.
func marshal(m proto.Message) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		// Only invalid UTF-8 or a missing proto2 field can fail, and callers have validated names.
		panic(fmt.Sprintf("metadb: marshal %T: %v", m, err))
	}
	return b
}

func id16(what string, b []byte) ([16]byte, error) {
	var id [16]byte
	if len(b) == 0 {
		return id, nil
	}
	if len(b) != 16 {
		return id, fmt.Errorf("%s has %d bytes, want 16", what, len(b))
	}
	copy(id[:], b)
	return id, nil
}

func raw[T ~[16]byte](id T) []byte {
	if id == (T{}) {
		return nil
	}
	b := [16]byte(id)
	return b[:]
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromNanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

func encodeCluster(c *Cluster) []byte {
	return marshal(&ClusterRecord{Id: raw(c.ID), Incarnation: c.Incarnation, FeatureLevel: uint32(c.Feature), Created: nanos(c.Created), LastChunk: uint32(c.LastChunk)})
}

func decodeCluster(_ string, b []byte, rev int64) (Cluster, error) {
	var r ClusterRecord
	if err := proto.Unmarshal(b, &r); err != nil {
		return Cluster{}, err
	}
	id, err := id16("cluster id", r.Id)
	return Cluster{ID: id, Incarnation: r.Incarnation, Feature: block.Feature(r.FeatureLevel), Created: fromNanos(r.Created), LastChunk: block.ChunkID(r.LastChunk), Revision: rev}, err
}

func encodeLeader(l *Leader) []byte {
	return marshal(&LeaderRecord{Member: l.Member, Name: l.Name, Term: l.Term, Address: l.Address})
}

func decodeLeader(_ string, b []byte, rev int64) (Leader, error) {
	var r LeaderRecord
	if err := proto.Unmarshal(b, &r); err != nil {
		return Leader{}, err
	}
	return Leader{Member: r.Member, Name: r.Name, Term: r.Term, Address: r.Address, Revision: rev}, nil
}

func encodeChunk(c *Chunk) []byte {
	return marshal(&ChunkRecord{
		Id: uint32(c.ID), Node: c.Node, Zone: c.Zone, DataAddress: c.DataAddress, IscsiAddress: c.ISCSIAddress,
		ControlAddress: c.ControlAddress, Version: c.Version, FeatureLevel: uint32(c.Feature), BootId: c.BootID,
		Pid: c.PID,
	})
}

func decodeChunk(_ string, b []byte, rev int64) (Chunk, error) {
	var r ChunkRecord
	if err := proto.Unmarshal(b, &r); err != nil {
		return Chunk{}, err
	}
	return Chunk{
		ID: block.ChunkID(r.Id), Node: r.Node, Zone: r.Zone, DataAddress: r.DataAddress, ISCSIAddress: r.IscsiAddress,
		ControlAddress: r.ControlAddress, Version: r.Version, Feature: block.Feature(r.FeatureLevel), BootID: r.BootId,
		PID: r.Pid, Revision: rev,
	}, nil
}

func encodeNode(n *Node) []byte {
	return marshal(&NodeRecord{Mode: uint32(n.Mode), Since: nanos(n.Since)})
}

func decodeNode(key string, b []byte, rev int64) (Node, error) {
	var r NodeRecord
	if err := proto.Unmarshal(b, &r); err != nil {
		return Node{}, err
	}
	_, name := splitKey(key)
	return Node{Name: name, Mode: Mode(r.Mode), Since: fromNanos(r.Since), Revision: rev}, nil
}

func encodeDisk(d *Disk) []byte {
	return marshal(&DiskRecord{
		Id: raw(d.ID), Chunk: uint32(d.Chunk), Name: d.Name, MountType: d.MountType, SizeBytes: d.SizeBytes,
		MountCounter: d.MountCounter, State: uint32(d.State), Since: nanos(d.Since), Message: d.Message, Device: d.Device,
	})
}

func decodeDisk(_ string, b []byte, rev int64) (Disk, error) {
	var r DiskRecord
	if err := proto.Unmarshal(b, &r); err != nil {
		return Disk{}, err
	}
	id, err := id16("disk id", r.Id)
	return Disk{
		ID: id, Chunk: block.ChunkID(r.Chunk), Name: r.Name, MountType: r.MountType, Device: r.Device, SizeBytes: r.SizeBytes,
		MountCounter: r.MountCounter, State: DiskState(r.State), Since: fromNanos(r.Since), Message: r.Message, Revision: rev,
	}, err
}

func encodeVolume(v *Volume) []byte {
	r := &VolumeRecord{
		Id: raw(v.ID), Name: v.Name, SizeBytes: v.SizeBytes, ReplicaFactor: uint32(v.ReplicaFactor), MinReplicas: uint32(v.MinReplicas),
		Thick: !v.Thin, Parent: raw(v.Parent), ParentView: uint32(v.ParentView), SourceSnapshot: raw(v.SourceSnapshot),
		PinsParent: v.PinsParent, SnapSeq: uint32(v.SnapSeq), Labels: maps.Clone(v.Labels), Created: nanos(v.Created),
		State: uint32(v.State), PreferNode: v.PreferNode, TopologyNodes: slices.Clone(v.TopologyNodes), Unconfirmed: v.Unconfirmed,
	}
	for _, x := range v.Losses {
		r.Losses = append(r.Losses, &LossRecord{Time: nanos(x.Time), Extents: x.Extents, Missing: slices.Clone(x.Missing)})
	}
	if v.Lineage != v.ID {
		r.Lineage = raw(v.Lineage)
	}
	for _, s := range v.Views {
		r.Views = append(r.Views, uint32(s))
	}
	return marshal(r)
}

func decodeVolume(_ string, b []byte, rev int64) (Volume, error) {
	var r VolumeRecord
	if err := proto.Unmarshal(b, &r); err != nil {
		return Volume{}, err
	}
	v := Volume{
		Name: r.Name, SizeBytes: r.SizeBytes, ReplicaFactor: uint8(r.ReplicaFactor), MinReplicas: uint8(r.MinReplicas), Thin: !r.Thick,
		ParentView: block.SnapSeq(r.ParentView), PinsParent: r.PinsParent, SnapSeq: block.SnapSeq(r.SnapSeq), Labels: r.Labels,
		Created: fromNanos(r.Created), State: VolumeState(r.State), PreferNode: r.PreferNode, TopologyNodes: r.TopologyNodes, Unconfirmed: r.Unconfirmed, Revision: rev,
	}
	for _, x := range r.Losses {
		v.Losses = append(v.Losses, Loss{Time: fromNanos(x.Time), Extents: x.Extents, Missing: x.Missing})
	}
	for _, f := range []struct {
		what string
		from []byte
		to   *[16]byte
	}{
		{"volume id", r.Id, (*[16]byte)(&v.ID)}, {"lineage", r.Lineage, (*[16]byte)(&v.Lineage)},
		{"parent", r.Parent, (*[16]byte)(&v.Parent)}, {"source snapshot", r.SourceSnapshot, (*[16]byte)(&v.SourceSnapshot)},
	} {
		id, err := id16(f.what, f.from)
		if err != nil {
			return Volume{}, err
		}
		*f.to = id
	}
	if v.Lineage.IsZero() {
		v.Lineage = v.ID
	}
	for _, s := range r.Views {
		v.Views = append(v.Views, block.SnapSeq(s))
	}
	return v, nil
}

func decodeName(_ string, b []byte) (block.VolumeID, error) {
	var r NameRecord
	if err := proto.Unmarshal(b, &r); err != nil {
		return block.VolumeID{}, err
	}
	id, err := id16("volume id", r.Volume)
	return id, err
}

func encodeOwner(o *Owner) []byte {
	return marshal(&OwnerRecord{Chunk: uint32(o.Chunk), Epoch: uint32(o.Epoch)})
}

func decodeOwner(key string, b []byte, rev int64) (Owner, error) {
	id, err := parseVolumeKey(prefixOwner, key)
	if err != nil {
		return Owner{}, err
	}
	var r OwnerRecord
	if err := proto.Unmarshal(b, &r); err != nil {
		return Owner{}, err
	}
	if r.Epoch > uint32(block.EpochMax) {
		return Owner{}, fmt.Errorf("epoch %d is above the maximum", r.Epoch)
	}
	return Owner{Volume: id, Chunk: block.ChunkID(r.Chunk), Epoch: block.Epoch(r.Epoch), Revision: rev}, nil
}

func encodeExtent(e *Extent) []byte {
	r := &ExtentRecord{Generation: uint32(e.Generation)}
	for _, m := range e.Members {
		r.Members = append(r.Members, &MemberRecord{Disk: raw(m.Disk), Chunk: uint32(m.Chunk), Kind: uint32(m.Kind), Since: uint64(m.Since)})
	}
	for _, a := range e.Absent {
		r.Absent = append(r.Absent, &AbsentRecord{Disk: raw(a.Disk), Chunk: uint32(a.Chunk), Watermark: uint64(a.Watermark)})
	}
	return marshal(r)
}

func decodeExtent(key string, b []byte, rev int64) (Extent, error) {
	id, err := parseExtentKey(key)
	if err != nil {
		return Extent{}, err
	}
	var r ExtentRecord
	if err := proto.Unmarshal(b, &r); err != nil {
		return Extent{}, err
	}
	if len(r.Members) > setMax || len(r.Absent) > setMax {
		return Extent{}, fmt.Errorf("set of %d members and %d absent is larger than %d", len(r.Members), len(r.Absent), setMax)
	}
	e := Extent{ID: id, Generation: block.Generation(r.Generation), Revision: rev}
	if n := len(r.Members); n > 0 {
		e.Members = make([]Member, n)
	}
	for i, m := range r.Members {
		d, err := id16("disk id", m.Disk)
		if err != nil {
			return Extent{}, err
		}
		e.Members[i] = Member{Disk: d, Chunk: block.ChunkID(m.Chunk), Kind: MemberKind(m.Kind), Since: block.Stamp(m.Since)}
	}
	for _, a := range r.Absent {
		d, err := id16("disk id", a.Disk)
		if err != nil {
			return Extent{}, err
		}
		e.Absent = append(e.Absent, Absent{Disk: d, Chunk: block.ChunkID(a.Chunk), Watermark: block.Stamp(a.Watermark)})
	}
	return e, nil
}

func encodeGrant(g *Grant) []byte {
	return marshal(&GrantRecord{
		Mode: uint32(g.Mode), Generation: g.Generation, Node: g.Node, ChapUser: g.CHAPUser, ChapSecret: g.CHAPSecret,
		MutualUser: g.MutualUser, MutualSecret: g.MutualSecret, Closing: g.Closing,
	})
}

func decodeGrant(key string, b []byte, rev int64) (Grant, error) {
	id, initiator, err := parseGrantKey(key)
	if err != nil {
		return Grant{}, err
	}
	var r GrantRecord
	if err := proto.Unmarshal(b, &r); err != nil {
		return Grant{}, err
	}
	return Grant{
		Volume: id, Initiator: initiator, Mode: AccessMode(r.Mode), Generation: r.Generation, Node: r.Node, CHAPUser: r.ChapUser,
		CHAPSecret: r.ChapSecret, MutualUser: r.MutualUser, MutualSecret: r.MutualSecret, Closing: r.Closing, Revision: rev,
	}, nil
}

func encodeSnapshot(s *Snapshot) []byte {
	return marshal(&SnapshotRecord{
		Id: raw(s.ID), Name: s.Name, Volume: raw(s.Volume), SnapSeq: uint32(s.SnapSeq), SizeBytes: s.SizeBytes,
		State: uint32(s.State), Created: nanos(s.Created), Internal: s.Internal,
	})
}

func decodeSnapshot(_ string, b []byte, rev int64) (Snapshot, error) {
	var r SnapshotRecord
	if err := proto.Unmarshal(b, &r); err != nil {
		return Snapshot{}, err
	}
	id, err := id16("snapshot id", r.Id)
	if err != nil {
		return Snapshot{}, err
	}
	vol, err := id16("volume id", r.Volume)
	return Snapshot{
		ID: id, Name: r.Name, Volume: vol, SnapSeq: block.SnapSeq(r.SnapSeq), SizeBytes: r.SizeBytes, State: VolumeState(r.State),
		Created: fromNanos(r.Created), Internal: r.Internal, Revision: rev,
	}, err
}

func decodeReservation(key string, b []byte, rev int64) (Reservation, error) {
	id, err := parseVolumeKey(prefixReservation, key)
	if err != nil {
		return Reservation{}, err
	}
	var r ReservationRecord
	if err := proto.Unmarshal(b, &r); err != nil {
		return Reservation{}, err
	}
	return Reservation{Volume: id, State: r.State, Revision: rev}, nil
}

func encodeTombstone(t *Tombstone) []byte {
	r := &TombstoneRecord{Volume: raw(t.Volume), Name: t.Name, Created: nanos(t.Created), Lineage: raw(t.Lineage)}
	for _, c := range t.Chunks {
		r.Chunks = append(r.Chunks, uint32(c))
	}
	return marshal(r)
}

func decodeTombstone(_ string, b []byte, rev int64) (Tombstone, error) {
	var r TombstoneRecord
	if err := proto.Unmarshal(b, &r); err != nil {
		return Tombstone{}, err
	}
	vol, err := id16("volume id", r.Volume)
	if err != nil {
		return Tombstone{}, err
	}
	lin, err := id16("lineage", r.Lineage)
	t := Tombstone{Volume: vol, Name: r.Name, Created: fromNanos(r.Created), Lineage: lin, Revision: rev}
	for _, c := range r.Chunks {
		t.Chunks = append(t.Chunks, block.ChunkID(c))
	}
	return t, err
}
