package suite

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/iomesh/iomesh/storaged/store/vdisk"
	"github.com/iomesh/iomesh/tests/bench/load"
)

// Bare is what the disk gives: each request is written to as many files at once as there are replicas, durably, by this process, and nothing else is
// done. With all replicas on one disk nobody who keeps them all can be faster.
const Bare = "bare-disk"

type bare struct {
	files []*vdisk.Real
	span  int64
}

// StartBare makes the files below dir, each of span bytes.
func StartBare(ctx context.Context, dir string, span uint64) (Subject, error) {
	b := &bare{span: int64(span)}
	for i := range 3 {
		path := filepath.Join(dir, "bare"+strconv.Itoa(i))
		if err := vdisk.Prewrite(ctx, path, b.span, nil); err != nil {
			return nil, errors.Join(err, b.Close())
		}
		d, err := vdisk.Open(path)
		if err != nil {
			return nil, errors.Join(err, b.Close())
		}
		b.files = append(b.files, d)
	}
	return b, nil
}

func (b *bare) Name() string { return Bare }

// Processes has none: the work is done by this process.
func (b *bare) Processes() map[string]int { return nil }

func (b *bare) Run(ctx context.Context, w Workload, d time.Duration) (load.Result, error) {
	if w.ReadPercent != 0 || !w.Sequential || w.Replicas > len(b.files) {
		return load.Result{}, fmt.Errorf("workload %s: the bare disk takes sequential writes to at most %d files only", w.Name, len(b.files))
	}
	var h load.Histogram
	var next atomic.Int64
	errs := make([]error, w.Depth)
	begin := time.Now()
	var workers sync.WaitGroup
	for k := range w.Depth {
		p := vdisk.Aligned(w.BlockBytes)
		p[0] = byte(k)
		workers.Go(func() {
			for time.Since(begin) < d && ctx.Err() == nil && errs[k] == nil {
				off := (next.Add(1) - 1) * int64(w.BlockBytes) % b.span
				at := time.Now()
				errs[k] = b.write(p, off, w.Replicas)
				h.Add(time.Since(at))
			}
		})
	}
	workers.Wait()
	return load.Summary(&h, w.BlockBytes, time.Since(begin)), errors.Join(errors.Join(errs...), ctx.Err())
}

// write returns when p is durable in all files.
func (b *bare) write(p []byte, off int64, copies int) error {
	errs := make([]error, copies)
	var wg sync.WaitGroup
	for i := range copies {
		wg.Go(func() { errs[i] = b.files[i].WriteDurable(p, off) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Verify has nothing to do: what is written means nothing.
func (b *bare) Verify(context.Context) error { return nil }

func (b *bare) Close() error {
	var err error
	for _, f := range b.files {
		err = errors.Join(err, f.Close())
	}
	return err
}
