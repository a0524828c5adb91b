package chunk

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// metaBackups keeps backups of the metadata on this node, so that they outlive the loss of all meta members. `storaged meta restore` reads them.
type metaBackups struct {
	dir   string
	every time.Duration
	keep  int
	log   *slog.Logger
	// save writes a complete, verified and durable backup to a path that does not exist.
	save func(ctx context.Context, path string) (int64, error)
}

const (
	backupsKept = 6
	backupName  = "meta-"
	backupEnd   = ".db"
	backupTime  = "20060102T150405Z"
	// backupMax bounds one backup; backupRetry is the pause after one that failed.
	backupMax   = 2 * time.Minute
	backupRetry = time.Minute
)

// run makes backups until ctx ends: the first shortly after the start, the nodes at different times.
func (b *metaBackups) run(ctx context.Context, now func() time.Time) {
	if b.every <= 0 {
		b.every = 10 * time.Minute
	}
	wait := min(b.every, backupRetry)
	wait = wait/2 + rand.N(wait/2+1)
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = b.every
		if err := b.one(ctx, now()); err != nil && ctx.Err() == nil {
			// Without metadata I/O goes on; so it does without backups of it.
			b.log.Warn("metadata not backed up", "dir", b.dir, "err", err)
			wait = min(b.every, backupRetry)
		}
	}
}

// one makes a backup and removes the oldest beyond keep. The old ones stay if the new one fails.
func (b *metaBackups) one(ctx context.Context, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, backupMax)
	defer cancel()
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(b.dir, backupName+now.UTC().Format(backupTime)+backupEnd)
	n, err := b.save(ctx, path)
	if err != nil {
		return err
	}
	b.log.Info("metadata backed up", "file", path, "bytes", n)
	entries, err := os.ReadDir(b.dir)
	if err != nil {
		return err
	}
	var names []string
	for _, e := range entries {
		if n := e.Name(); strings.HasPrefix(n, backupName) && strings.HasSuffix(n, backupEnd) {
			names = append(names, n)
		}
	}
	slices.Sort(names) // by time
	for _, n := range names[:max(0, len(names)-b.keep)] {
		if err := os.Remove(filepath.Join(b.dir, n)); err != nil {
			return fmt.Errorf("remove an old backup: %w", err)
		}
	}
	return nil
}
