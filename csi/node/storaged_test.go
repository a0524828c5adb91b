package node_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/iomesh/iomesh/csi/code"
	"github.com/iomesh/iomesh/csi/rig"
	"github.com/iomesh/iomesh/internal/iscsi/initiator"
	"github.com/iomesh/iomesh/internal/scsi"
)

const blockBytes = 4096

// writer writes the numbers 1, 2, 3 … to successive blocks of a device, each acknowledged before the next.
type writer struct {
	acked atomic.Uint64
	stop  chan struct{}
	done  chan error
}

func startWriter(path string, blocks uint64) *writer {
	w := &writer{stop: make(chan struct{}), done: make(chan error, 1)}
	go func() { w.done <- w.run(path, blocks) }()
	return w
}

func (w *writer) run(path string, blocks uint64) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_DIRECT|unix.O_DSYNC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	page, err := unix.Mmap(-1, 0, blockBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return err
	}
	for n := uint64(1); n <= blocks; n++ {
		select {
		case <-w.stop:
			return nil
		default:
		}
		for at := 0; at < blockBytes; at += 8 {
			binary.LittleEndian.PutUint64(page[at:], n)
		}
		if _, err := unix.Pwrite(fd, page, int64(n-1)*blockBytes); err != nil {
			return fmt.Errorf("write %d: %w", n, err)
		}
		w.acked.Store(n)
	}
	return nil
}

func (w *writer) await(t *testing.T, n uint64) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); w.acked.Load() < n; {
		select {
		case err := <-w.done:
			t.Fatalf("the writer ended after %d: %v", w.acked.Load(), err)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("only %d of %d writes were acknowledged", w.acked.Load(), n)
		}
	}
}

// prefix checks that a device holds the numbers 1 … n and nothing after, and returns n.
func prefix(t *testing.T, path string, blocks uint64) uint64 {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n := uint64(0)
	for i := uint64(0); i < blocks; i++ {
		block := b[i*blockBytes : (i+1)*blockBytes]
		v := binary.LittleEndian.Uint64(block)
		for at := 0; at < blockBytes; at += 8 {
			if binary.LittleEndian.Uint64(block[at:]) != v {
				t.Fatalf("block %d is torn", i)
			}
		}
		switch {
		case v == i+1 && n == i:
			n = v
		case v != 0:
			t.Fatalf("block %d holds %d after a prefix of %d", i, v, n)
		}
	}
	return n
}

func TestASnapshotUnderWritesHoldsExactlyWhatWasAcknowledged(t *testing.T) {
	r := rig.NewStoraged(t)
	const size, blocks = 64 * mib, 64 * mib / blockBytes
	raw := blockCap(csipb.VolumeCapability_AccessMode_SINGLE_NODE_WRITER)
	k := newClaim(r, t, "live", size, raw)
	k.up("raw")
	w := startWriter(k.target("raw"), blocks)
	w.await(t, 50)
	before := w.acked.Load()
	snap, err := k.c.CreateSnapshot(t.Context(), &csipb.CreateSnapshotRequest{Name: "snap", SourceVolumeId: k.id})
	if err != nil {
		t.Fatal(err)
	}
	after := w.acked.Load() + 1 // one may be on its way
	w.await(t, after+50)

	from := func(name string) *claim {
		return newClaim(r, t, name, size, raw, func(in *csipb.CreateVolumeRequest) {
			in.VolumeContentSource = &csipb.VolumeContentSource{Type: &csipb.VolumeContentSource_Snapshot{Snapshot: &csipb.VolumeContentSource_SnapshotSource{SnapshotId: snap.Snapshot.SnapshotId}}}
		})
	}
	one, two := from("one"), from("two")
	one.up("one")
	two.up("two")
	n := prefix(t, one.target("one"), blocks)
	if n < before || n > after {
		t.Errorf("the snapshot holds %d writes; %d were acknowledged before it, %d begun when it was done", n, before, after)
	}
	a, err1 := os.ReadFile(one.target("one"))
	b, err2 := os.ReadFile(two.target("two"))
	if err := errors.Join(err1, err2); err != nil || !bytes.Equal(a, b) {
		t.Errorf("two restores of one snapshot differ (%v)", err)
	}
	close(w.stop)
	if err := <-w.done; err != nil {
		t.Fatal(err)
	}
	if got := prefix(t, k.target("raw"), blocks); got < w.acked.Load() {
		t.Errorf("the source holds %d of %d acknowledged writes", got, w.acked.Load())
	}
	one.down("one")
	two.down("two")
	k.down("raw")
	if err := errors.Join(one.delete(), two.delete()); err != nil {
		t.Error(err)
	}
	if _, err := k.c.DeleteSnapshot(t.Context(), &csipb.DeleteSnapshotRequest{SnapshotId: snap.Snapshot.SnapshotId}); err != nil {
		t.Error(err)
	}
	k.gone()
}

func TestTheTargetItselfRefusesWritesOfReadOnlyMany(t *testing.T) {
	r := rig.NewStoraged(t)
	k := newClaim(r, t, "rox", 32*mib, blockCap(csipb.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY))
	if err := k.controllerPublish(); err != nil {
		t.Fatal(err)
	}
	g := r.Grant(k.id, k.nodeID)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := initiator.Dial(ctx, initiator.Options{
		Portals: []string{r.Portal()}, Target: k.publish["iqn"], Initiator: k.nodeID, CHAP: &initiator.CHAP{User: g.ChapUser, Secret: g.ChapSecret},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.ReadAt(ctx, make([]byte, blockBytes), 0); err != nil {
		t.Errorf("read: %v", err)
	}
	var status *initiator.StatusError
	if err := s.WriteAt(ctx, make([]byte, blockBytes), 0); !errors.As(err, &status) || status.Sense.Key != scsi.DataProtect {
		t.Errorf("write by a node that ignores the mode: %v, want DATA PROTECT", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := k.controllerUnpublish(); err != nil {
		t.Error(err)
	}
	k.gone()
}

func TestReadWriteManyBlockIsOneVolumeOnTwoNodes(t *testing.T) {
	r := rig.NewStoraged(t)
	k := newClaim(r, t, "rwx", 32*mib, blockCap(csipb.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER))
	k.up("n1")
	other := *k
	info, err := r.Node("n2", nil).NodeGetInfo(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	other.nodeID = info.NodeId
	if err := other.controllerPublish(); err != nil {
		t.Fatalf("publish to a second node: %v", err)
	}
	g := r.Grant(k.id, other.nodeID)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := initiator.Dial(ctx, initiator.Options{
		Portals: []string{r.Portal()}, Target: k.publish["iqn"], Initiator: other.nodeID, CHAP: &initiator.CHAP{User: g.ChapUser, Secret: g.ChapSecret},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	w := startWriter(k.target("n1"), 8)
	if err := <-w.done; err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 8*blockBytes)
	if err := s.ReadAt(ctx, b, 0); err != nil || binary.LittleEndian.Uint64(b[7*blockBytes:]) != 8 {
		t.Errorf("the second node does not see the first one's writes (%v)", err)
	}
	if err := s.WriteAt(ctx, bytes.Repeat([]byte{7}, blockBytes), 8*blockBytes); err != nil {
		t.Errorf("write by the second node: %v", err)
	}
	fd, err := unix.Open(k.target("n1"), unix.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	page, err := unix.Mmap(-1, 0, blockBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Pread(fd, page, 8*blockBytes); err != nil || page[0] != 7 {
		t.Errorf("the first node reads %d, %v", page[0], err)
	}
	unix.Close(fd)
	s.Close()
	if err := other.controllerUnpublish(); err != nil {
		t.Error(err)
	}
	k.down("n1")
	k.gone()
}

func TestClassesAndSizesThatCannotBe(t *testing.T) {
	r := rig.NewStoraged(t)
	c := r.Controller()
	for _, tc := range []struct {
		name   string
		size   int64
		params map[string]string
		cap    *csipb.VolumeCapability
		want   codes.Code
	}{
		{"four replicas", 32 * mib, map[string]string{"replicaFactor": "4"}, fsCap("ext4"), codes.InvalidArgument},
		{"an unknown parameter", 32 * mib, map[string]string{"replicas": "2"}, fsCap("ext4"), codes.InvalidArgument},
		{"a shared filesystem", 32 * mib, nil, &csipb.VolumeCapability{
			AccessType: &csipb.VolumeCapability_Mount{Mount: &csipb.VolumeCapability_MountVolume{}},
			AccessMode: &csipb.VolumeCapability_AccessMode{Mode: csipb.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER},
		}, codes.InvalidArgument},
		{"an xfs that mkfs refuses", 32 * mib, nil, fsCap("xfs"), codes.OutOfRange},
		{"more than the pool", 1 << 50, nil, fsCap("ext4"), codes.InvalidArgument}, // above the largest volume
		{"more than the pool has, thick", 60 << 30, map[string]string{"thinProvision": "false"}, fsCap("ext4"), codes.ResourceExhausted},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := c.CreateVolume(t.Context(), &csipb.CreateVolumeRequest{
				Name: "x", CapacityRange: &csipb.CapacityRange{RequiredBytes: tc.size}, Parameters: tc.params, VolumeCapabilities: []*csipb.VolumeCapability{tc.cap},
			})
			if code.Of(err) != tc.want {
				t.Errorf("error %v, want %v", err, tc.want)
			}
		})
	}
	nothingLeft(t, r)
}
