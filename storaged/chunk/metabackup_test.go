package chunk

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestBackupsKeepTheNewest(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "backups")
	fail := error(nil)
	b := &metaBackups{dir: dir, keep: 3, log: slog.New(slog.DiscardHandler), save: func(_ context.Context, path string) (int64, error) {
		if fail != nil {
			return 0, fail
		}
		return 1, os.WriteFile(path, []byte("x"), 0o600)
	}}
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for i := range 5 {
		if err := b.one(t.Context(), start.Add(time.Duration(i)*10*time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "notes.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fail = errors.New("no metadata")
	if err := b.one(t.Context(), start.Add(time.Hour)); !errors.Is(err, fail) {
		t.Errorf("%v", err)
	}
	var names []string
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	want := []string{"meta-20260102T032405Z.db", "meta-20260102T033405Z.db", "meta-20260102T034405Z.db", "notes.txt"}
	if len(names) != len(want) {
		t.Fatalf("%v, want %v", names, want)
	}
	for i := range want {
		if names[i] != want[i] {
			t.Fatalf("%v, want %v", names, want)
		}
	}
}
