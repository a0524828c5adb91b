package metadb

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/iomesh/iomesh/storaged/block"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func sample3Way() Extent {
	e := Extent{ID: block.ExtentID{Volume: block.VolumeID{1, 0xff, 0xff}, Index: 258}, Generation: 300}
	for i := range byte(3) {
		e.Members = append(e.Members, Member{Disk: block.DiskID{i, 9, 15: 7}, Chunk: block.ChunkID(i) + 1})
	}
	return e
}

func TestExtentIsSmall(t *testing.T) {
	e := sample3Way()
	size := len(keyExtent(e.ID)) + len(encodeExtent(&e))
	if size > 111 { // stated in docs/metadata.md
		t.Errorf("a 3-way extent takes %d bytes", size)
	}
	t.Logf("3-way extent: key %d, value %d", len(keyExtent(e.ID)), len(encodeExtent(&e)))
}

func TestExtentGolden(t *testing.T) {
	e := sample3Way()
	e.Members[2].Kind, e.Members[2].Since = KindDelta, block.NewStamp(3, 5)
	e.Absent = []Absent{{Disk: block.DiskID{5}, Chunk: 4, Watermark: block.NewStamp(2, 1)}}
	const wantKey = "2f696f6d6573682f76312f657874656e742f01ffff0000000000000000000000000000000102"
	const wantValue = "08ac0212140a1000090000000000000000000000000007100112140a10010900000000000000000000000000071002121f0a1002090000000000000000000000000007100318012105000000000300001a1d0a10050000000000000000000000000000001004190100000000020000"
	if got := hex.EncodeToString([]byte(keyExtent(e.ID))); got != wantKey {
		t.Errorf("key %s", got)
	}
	if got := hex.EncodeToString(encodeExtent(&e)); got != wantValue {
		t.Errorf("value %s", got)
	}
	got, err := decodeExtent(keyExtent(e.ID), encodeExtent(&e), 17)
	e.Revision = 17
	if err != nil || !reflect.DeepEqual(got, e) {
		t.Errorf("decoded %+v, %v", got, err)
	}
}

func TestRecordsRoundTrip(t *testing.T) {
	now := time.Unix(1700000000, 42).UTC()
	vol, disk, snap := block.NewVolumeID(), block.NewDiskID(), block.NewSnapshotID()
	for _, c := range []struct {
		op   Op
		want Record
	}{
		{PutCluster(Cluster{ID: block.ClusterID{1}, Incarnation: 2, Feature: 3, LastChunk: 4, Created: now}), Cluster{ID: block.ClusterID{1}, Incarnation: 2, Feature: 3, LastChunk: 4, Created: now, Revision: 5}},
		{PutChunk(Chunk{ID: 7, Node: "n", Zone: "z", DataAddress: "a:1", ISCSIAddress: "b:2", ControlAddress: "c:3", Version: "v", Feature: 1, BootID: 9, PID: 10}),
			Chunk{ID: 7, Node: "n", Zone: "z", DataAddress: "a:1", ISCSIAddress: "b:2", ControlAddress: "c:3", Version: "v", Feature: 1, BootID: 9, PID: 10, Revision: 5}},
		{PutNode(Node{Name: "n", Mode: ModeMaintenance, Since: now}), Node{Name: "n", Mode: ModeMaintenance, Since: now, Revision: 5}},
		{PutDisk(Disk{ID: disk, Chunk: 1, Name: "d", MountType: "m", Device: "/dev/x", SizeBytes: 10, MountCounter: 3, State: DiskDraining, Since: now, Message: "m"}),
			Disk{ID: disk, Chunk: 1, Name: "d", MountType: "m", Device: "/dev/x", SizeBytes: 10, MountCounter: 3, State: DiskDraining, Since: now, Message: "m", Revision: 5}},
		{PutVolume(Volume{ID: vol, Name: "v", SizeBytes: 1, ReplicaFactor: 3, MinReplicas: 2, Thin: true, Lineage: vol, SnapSeq: 2, Views: []block.SnapSeq{0, 1}, Labels: map[string]string{"a": "b"}, Created: now, State: StateReady, PreferNode: "n", TopologyNodes: []string{"n"}}),
			Volume{ID: vol, Name: "v", SizeBytes: 1, ReplicaFactor: 3, MinReplicas: 2, Thin: true, Lineage: vol, SnapSeq: 2, Views: []block.SnapSeq{0, 1}, Labels: map[string]string{"a": "b"}, Created: now, State: StateReady, PreferNode: "n", TopologyNodes: []string{"n"}, Revision: 5}},
		{PutName(Name{Name: "v", Volume: vol}), Name{Name: "v", Volume: vol, Revision: 5}},
		{PutOwner(Owner{Volume: vol, Chunk: 2, Epoch: 3}), Owner{Volume: vol, Chunk: 2, Epoch: 3, Revision: 5}},
		{PutGrant(Grant{Volume: vol, Initiator: "iqn.x/y", Mode: AccessShared, Generation: 2, Node: "n", CHAPUser: "u", CHAPSecret: "s"}), Grant{Volume: vol, Initiator: "iqn.x/y", Mode: AccessShared, Generation: 2, Node: "n", CHAPUser: "u", CHAPSecret: "s", Revision: 5}},
		{PutSnapshot(Snapshot{ID: snap, Name: "s", Volume: vol, SnapSeq: 4, SizeBytes: 8, State: StateDeleting, Created: now, Internal: true}), Snapshot{ID: snap, Name: "s", Volume: vol, SnapSeq: 4, SizeBytes: 8, State: StateDeleting, Created: now, Internal: true, Revision: 5}},
		{PutTombstone(Tombstone{Volume: vol, Name: "v", Lineage: vol, Chunks: []block.ChunkID{1, 2}, Created: now}), Tombstone{Volume: vol, Name: "v", Lineage: vol, Chunks: []block.ChunkID{1, 2}, Created: now, Revision: 5}},
	} {
		got, err := decodeRecord(c.op.key, c.op.value, 5)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%T: %+v, %v; want %+v", c.want, got, err, c.want)
		}
		id, err := parseKey(c.op.key)
		if err != nil || reflect.TypeOf(id) != reflect.TypeOf(c.want) {
			t.Errorf("%T: key parses as %T, %v", c.want, id, err)
		}
	}
}

// FuzzDecodeRecord: whatever bytes are in etcd, decoding ends in a record or an error.
func FuzzDecodeRecord(f *testing.F) {
	e := sample3Way()
	f.Add(keyExtent(e.ID), encodeExtent(&e))
	f.Add(keyOwner(block.VolumeID{1}), encodeOwner(&Owner{Epoch: 1}))
	f.Add(keyGrant(block.VolumeID{1}, "x"), encodeGrant(&Grant{}))
	f.Add(keyVolume(block.VolumeID{1}), encodeVolume(&Volume{ID: block.VolumeID{1}, Lineage: block.VolumeID{1}}))
	f.Add(keyCluster, []byte{})
	f.Fuzz(func(t *testing.T, key string, value []byte) {
		r, err := decodeRecord(key, value, 1)
		if _, kerr := parseKey(key); err == nil && kerr != nil {
			// The volume, snapshot and disk records name themselves; their keys are checked by the reader of the range.
			switch r.(type) {
			case Volume, Snapshot, Disk, Chunk, Tombstone, Name, Node:
			default:
				t.Errorf("key %q: decoded as %T but parsed as %v", key, r, kerr)
			}
		}
		if ext, ok := r.(Extent); ok && err == nil {
			again, err := decodeExtent(keyExtent(ext.ID), encodeExtent(&ext), 1)
			if err != nil || !again.Equal(&ext) {
				t.Errorf("re-encoded extent differs: %v", err)
			}
			if !bytes.Equal(encodeExtent(&again), encodeExtent(&ext)) {
				t.Error("encoding is not stable")
			}
		}
	})
}
