package chunk

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/iomesh/iomesh/internal/diskdir"
	"github.com/iomesh/iomesh/storaged/block"
)

type noEvents struct{}

func (noEvents) diskOpened(*disk)       {}
func (noEvents) diskGone(*disk, error)  {}
func (noEvents) diskInUse(*disk) string { return "" }

// A data disk waits for its journal disk, fails with it, and is never opened without it.
func TestDataDisksStandAndFallWithTheirJournalDisk(t *testing.T) {
	dir, devices := t.TempDir(), t.TempDir()
	file := func(name string, size int64) string {
		p := filepath.Join(devices, name)
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(p, size); err != nil {
			t.Fatal(err)
		}
		return p
	}
	cluster := block.NewClusterID()
	d := newDisks(dir, cluster, noEvents{}, slog.New(slog.DiscardHandler))
	status := func(name string) string {
		t.Helper()
		d.sync(context.Background())
		raw, err := os.ReadFile(filepath.Join(dir, name+".status"))
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	expect := func(name string, words ...string) {
		t.Helper()
		st := status(name)
		for _, w := range words {
			if !strings.Contains(st, w) {
				t.Errorf("status of %s has no %q: %s", name, w, st)
			}
		}
	}
	add := func(e diskdir.Entry) {
		t.Helper()
		if err := diskdir.WriteEntry(dir, e); err != nil {
			t.Fatal(err)
		}
	}
	ssd, hdd := file("ssd", 64<<20), file("hdd", 64<<20)
	add(diskdir.Entry{Name: "a-data", Device: hdd, MountType: "dataStore", SizeBytes: 64 << 20, Format: true})
	expect("a-data", diskdir.StateRefused, "cacheWithJournal")
	add(diskdir.Entry{Name: "z-journal", Device: ssd, MountType: "cacheWithJournal", SizeBytes: 64 << 20, Format: true})
	expect("a-data", diskdir.StateActive)
	expect("z-journal", diskdir.StateActive, "1 of ")
	if err := diskdir.RemoveEntry(dir, "z-journal"); err != nil {
		t.Fatal(err)
	}
	expect("z-journal", "still in use")
	add(diskdir.Entry{Name: "z-journal", Device: ssd, MountType: "cacheWithJournal", SizeBytes: 64 << 20, Format: true})

	// The fast disk is lost: so are the replicas on the slow one, until it is back.
	if err := os.Rename(ssd, ssd+".lost"); err != nil {
		t.Fatal(err)
	}
	expect("a-data", diskdir.StateFailed, "journal disk")
	d.closeAll()
	d = newDisks(dir, cluster, noEvents{}, slog.New(slog.DiscardHandler))
	expect("a-data", diskdir.StateRefused, "the journal of the disk is missing")
	if err := os.Rename(ssd+".lost", ssd); err != nil {
		t.Fatal(err)
	}
	expect("a-data", diskdir.StateActive)
	d.closeAll()
}
