package diskdir

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestEntriesRoundTripAndOneBadFileHidesNoOther(t *testing.T) {
	dir := t.TempDir()
	want := Entry{Name: "bd-1", Device: "/dev/loop3", MountType: "dataStoreWithJournal", SizeBytes: 8 << 30, Format: true}
	if err := WriteEntry(dir, want); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"bd-2.json": "{", "bd-3.json": `{"name":"other","device":"/dev/x","mountType":"dataStore"}`,
		"bd-4.json": `{"name":"bd-4","device":"loop","mountType":"dataStore"}`, "bd-5.json": `{"name":"bd-5","device":"/d","mountType":"fast"}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, errs := Entries(dir)
	if len(got) != 1 || got[0] != want || len(errs) != 4 {
		t.Fatalf("entries %+v, errors %v", got, errs)
	}
	if err := RemoveEntry(dir, "bd-1"); err != nil {
		t.Fatal(err)
	}
	if err := RemoveEntry(dir, "bd-1"); err != nil {
		t.Fatalf("removing twice: %v", err)
	}
}

func TestStatusOfASilentChunkIsNotExist(t *testing.T) {
	dir := t.TempDir()
	if _, err := ReadStatus(dir, "x"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("err %v", err)
	}
	if err := WriteStatus(dir, Status{Name: "x", State: StateActive}); err != nil {
		t.Fatal(err)
	}
	if s, err := ReadStatus(dir, "x"); err != nil || s.State != StateActive {
		t.Fatalf("%+v %v", s, err)
	}
	if got, errs := Entries(dir); len(got)+len(errs) != 0 {
		t.Fatalf("a status file was taken for an entry: %v %v", got, errs)
	}
}
