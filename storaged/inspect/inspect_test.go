package inspect

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
)

type done chan struct{}

func (d done) Complete([]*store.Write) { close(d) }

// makeDisk writes a store with one replica, one block in place and one in the journal, and returns its file.
func makeDisk(t *testing.T, e block.ExtentID) string {
	t.Helper()
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "disk")
	if err := vdisk.Prewrite(ctx, path, 32<<20, nil); err != nil {
		t.Fatal(err)
	}
	d, err := vdisk.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := store.Format(ctx, d, store.FormatOptions{Cluster: block.ClusterID{1}, DiskID: block.DiskID{2}}); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(ctx, d, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.EnsureReplica(ctx, store.ReplicaSpec{Extent: e, Lineage: e.Volume, Generation: 4}); err != nil {
		t.Fatal(err)
	}
	ch := make(done)
	s.Submit(&store.Write{Extent: e, Kind: store.Data, Range: block.Range{Start: 7, Count: 2}, Stamp: block.NewStamp(3, 5), Data: make([]byte, 8192), Completer: ch})
	<-ch
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func runInspect(args ...string) (string, error) {
	cmd := NewCommand()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(args)
	err := cmd.Execute()
	return out.String(), err
}

func TestInspectShowsReplicasMapAndBadBlocksAndWritesNothing(t *testing.T) {
	e := block.ExtentID{Volume: block.VolumeID{0xaa}, Index: 3}
	path := makeDisk(t, e)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	out, err := runInspect("--journal", "--map", e.String(), "--verify", path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{e.String(), "dataStoreWithJournal", "[7,9)", "3.5", "verified", "2 blocks", "0 bad", "mounted", "1 times"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("the disk has changed")
	}
	var rep struct {
		Map      []struct{ Offset int64 }
		Replicas []struct{ Generation int }
	}
	out, err = runInspect("-o", "json", "--map", e.String(), path)
	if err != nil || json.Unmarshal([]byte(out), &rep) != nil {
		t.Fatalf("json: %v\n%s", err, out)
	}
	if len(rep.Map) != 1 || rep.Replicas[0].Generation != 4 {
		t.Fatalf("report %+v", rep)
	}
	// Rot in the data and in one superblock: both are told.
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, off := range []int64{rep.Map[0].Offset + 5, 40} {
		if _, err := f.WriteAt([]byte{0xff}, off); err != nil {
			t.Fatal(err)
		}
	}
	f.Close()
	out, err = runInspect("--verify", path)
	if err != nil || !strings.Contains(out, "1 bad") || !strings.Contains(out, "superblock checksum") {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestInspectRefusesWhatIsNoStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(path, bytes.Repeat([]byte("no store"), 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := runInspect(path); err == nil || !strings.Contains(err.Error(), "foreign") {
		t.Errorf("error %v", err)
	}
	if _, err := runInspect("--map", "nonsense", path); err == nil {
		t.Error("a bad extent is accepted")
	}
	if _, err := runInspect(); err == nil {
		t.Error("no disk is accepted")
	}
}
