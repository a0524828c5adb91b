package suite

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"github.com/iomesh/iomesh/tests/bench/load"
)

// scaleDepth is the number of requests in flight where that is not what is varied.
const scaleDepth = 32

// Scale measures along volumes, queue depth, volume size, snapshot chain and fill of the pool. only selects tables by name; empty: all.
func (r *Runner) Scale(ctx context.Context, storaged, dir, only string) ([]*Table, error) {
	var out []*Table
	for _, t := range []struct {
		name string
		f    func(context.Context, *Table, string, string) error
	}{
		{"volumes", r.scaleVolumes}, {"depth", r.scaleDepths}, {"size", r.scaleSizes}, {"chain", r.scaleChain}, {"fill", r.scaleFill},
	} {
		if only != "" && only != t.name {
			continue
		}
		table := &Table{Name: t.name, Flat: t.name == "size" || t.name == "chain" || t.name == "fill"}
		fmt.Fprintf(r.Progress, "%s\n", t.name)
		err := t.f(ctx, table, storaged, filepath.Join(dir, t.name))
		out = append(out, table)
		if err != nil {
			return out, fmt.Errorf("scale along %s: %w", t.name, err)
		}
	}
	return out, nil
}

// within runs f on a new cluster and stops that.
func within(ctx context.Context, o ClusterOptions, f func(c *cluster) error) error {
	c, err := startCluster(ctx, o)
	if err != nil {
		return err
	}
	return errors.Join(f(c), c.Close())
}

// scaleVolumes loads 1 to 64 volumes at a time, with 64 requests in flight over all.
func (r *Runner) scaleVolumes(ctx context.Context, t *Table, storaged, dir string) error {
	const span, most = 32 << 20, 64
	return within(ctx, ClusterOptions{Storaged: storaged, Dir: dir, DiskBytes: most*span + 2<<30}, func(c *cluster) error {
		var units []*unit
		for _, n := range []int{1, 4, 16, most} {
			for len(units) < n {
				u, err := c.unit(ctx, "v"+strconv.Itoa(len(units)), span, 3)
				if err != nil {
					return err
				}
				units = append(units, u)
				c.units[3] = units
			}
			w := Workload{Name: "scale", BlockBytes: 4096, Depth: most / n}
			row, err := r.point(ctx, c, fmt.Sprintf("%d volumes × depth %d", n, w.Depth), func(reads int, d time.Duration) (load.Result, error) {
				w.ReadPercent = reads
				return runUnits(ctx, units[:n], w, d)
			})
			if err != nil {
				return err
			}
			t.Rows = append(t.Rows, row)
		}
		return c.Verify(ctx)
	})
}

func (r *Runner) scaleDepths(ctx context.Context, t *Table, storaged, dir string) error {
	const span = 256 << 20
	return within(ctx, ClusterOptions{Storaged: storaged, Dir: dir, DiskBytes: span + 2<<30}, func(c *cluster) error {
		u, err := c.unit(ctx, "v", span, 3)
		if err != nil {
			return err
		}
		c.units[3] = []*unit{u}
		for _, depth := range []int{1, 4, 16, 64, 256} {
			row, err := r.point(ctx, c, fmt.Sprintf("depth %d", depth), func(reads int, d time.Duration) (load.Result, error) {
				return runUnits(ctx, c.units[3], Workload{ReadPercent: reads, BlockBytes: 4096, Depth: depth}, d)
			})
			if err != nil {
				return err
			}
			t.Rows = append(t.Rows, row)
		}
		return c.Verify(ctx)
	})
}

// scaleSizes writes the same number of blocks, spread over volumes of 1 GiB to 10 TiB. The disks are sparse files, which makes the writes of all
// sizes alike slower than on real ones.
func (r *Runner) scaleSizes(ctx context.Context, t *Table, storaged, dir string) error {
	const places = 8192
	return within(ctx, ClusterOptions{Storaged: storaged, Dir: dir, DiskBytes: 6 << 40, Sparse: true}, func(c *cluster) error {
		for _, size := range []uint64{1 << 30, 64 << 30, 1 << 40, 10 << 40} {
			name := fmt.Sprintf("%d GiB", size>>30)
			portals, iqn, err := c.volume(ctx, "s"+strconv.FormatUint(size>>30, 10), size, 3)
			if err != nil {
				return err
			}
			x, err := dialSpread(ctx, portals, iqn, size, places)
			if err != nil {
				return err
			}
			row, err := r.point(ctx, c, name, func(reads int, d time.Duration) (load.Result, error) { return x.run(ctx, reads, scaleDepth, d) })
			if err == nil {
				err = x.ledger.Verify(ctx, x.session)
			}
			if err = errors.Join(err, x.session.Close()); err != nil {
				return err
			}
			t.Rows = append(t.Rows, row)
		}
		return nil
	})
}

// scaleChain takes snapshots, with writes between them, and measures the live volume. After the last snapshot it is written in full, because the first
// write to a place after a snapshot costs a copy of its unit, with one snapshot as with many.
func (r *Runner) scaleChain(ctx context.Context, t *Table, storaged, dir string) error {
	const span = 128 << 20
	return within(ctx, ClusterOptions{Storaged: storaged, Dir: dir, DiskBytes: 24 << 30, Sparse: true}, func(c *cluster) error {
		u, err := c.unit(ctx, "v", span, 3)
		if err != nil {
			return err
		}
		c.units[3] = []*unit{u}
		taken := 0
		for _, n := range []int{0, 1, 16, 64} {
			for ; taken < n; taken++ {
				var ignored map[string]any
				if err := c.ctl(ctx, &ignored, "volume", "snapshot", "v", "s"+strconv.Itoa(taken)); err != nil {
					return err
				}
				if _, err := runUnits(ctx, c.units[3], Workload{BlockBytes: 4096, Depth: scaleDepth}, 100*time.Millisecond); err != nil {
					return err
				}
			}
			fill := load.Options{BlockBytes: 1 << 20, Depth: 8, SpanBytes: span, Sequential: true, Duration: time.Hour, Requests: span >> 20}
			if _, err := load.Run(ctx, u.session, fill, u.ledger); err != nil {
				return err
			}
			row, err := r.point(ctx, c, fmt.Sprintf("%d snapshots", n), func(reads int, d time.Duration) (load.Result, error) {
				return runUnits(ctx, c.units[3], Workload{ReadPercent: reads, BlockBytes: 4096, Depth: scaleDepth}, d)
			})
			if err != nil {
				return err
			}
			t.Rows = append(t.Rows, row)
		}
		return c.Verify(ctx)
	})
}

// scaleFill fills the pool with volumes and measures one of them.
func (r *Runner) scaleFill(ctx context.Context, t *Table, storaged, dir string) error {
	const disk, span = 3 << 30, 128 << 20
	return within(ctx, ClusterOptions{Storaged: storaged, Dir: dir, DiskBytes: disk}, func(c *cluster) error {
		var status struct{ TotalBytes, UsedBytes uint64 }
		for _, percent := range []uint64{10, 50, 80, 95} {
			for i := 0; ; i++ {
				if err := c.ctl(ctx, &status, "status"); err != nil {
					return err
				}
				if status.UsedBytes*100 >= status.TotalBytes*percent || status.UsedBytes*100+3*span*100 > status.TotalBytes*97 {
					break
				}
				u, err := c.unit(ctx, fmt.Sprintf("f%d-%d", percent, i), span, 3)
				if err != nil {
					return err
				}
				c.units[3] = append(c.units[3], u)
				// Usage is reported every few seconds at the latest; without waiting for it, too much would be made.
				used := status.UsedBytes
				if err := until(ctx, time.Minute, "the usage is reported", func() error {
					if err := c.ctl(ctx, &status, "status"); err != nil {
						return err
					}
					if status.UsedBytes < used+2*span {
						return fmt.Errorf("%d bytes used", status.UsedBytes)
					}
					return nil
				}); err != nil {
					return err
				}
			}
			row, err := r.point(ctx, c, fmt.Sprintf("%d %% full", status.UsedBytes*100/status.TotalBytes), func(reads int, d time.Duration) (load.Result, error) {
				return runUnits(ctx, c.units[3][:1], Workload{ReadPercent: reads, BlockBytes: 4096, Depth: scaleDepth}, d)
			})
			if err != nil {
				return err
			}
			t.Rows = append(t.Rows, row)
		}
		return c.Verify(ctx)
	})
}
