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
			if err := r.measure(ctx, t, point{fmt.Sprintf("%d volumes × depth %d", n, w.Depth), c, func(reads int, d time.Duration) (load.Result, error) {
				w.ReadPercent = reads
				return runUnits(ctx, units[:n], w, d)
			}}); err != nil {
				return err
			}
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
			if err := r.measure(ctx, t, point{fmt.Sprintf("depth %d", depth), c, func(reads int, d time.Duration) (load.Result, error) {
				return runUnits(ctx, c.units[3], Workload{ReadPercent: reads, BlockBytes: 4096, Depth: depth}, d)
			}}); err != nil {
				return err
			}
		}
		return c.Verify(ctx)
	})
}

// unitPoint is a volume under random reads or writes.
func unitPoint(ctx context.Context, name string, c *cluster, u *unit) point {
	return point{name, c, func(reads int, d time.Duration) (load.Result, error) {
		return runUnits(ctx, []*unit{u}, Workload{ReadPercent: reads, BlockBytes: 4096, Depth: scaleDepth}, d)
	}}
}

// scaleSizes writes the same number of blocks, spread over volumes of 1 GiB to 10 TiB. The disks' files are written where
// they are used.
func (r *Runner) scaleSizes(ctx context.Context, t *Table, storaged, dir string) error {
	const places = 8192
	return within(ctx, ClusterOptions{Storaged: storaged, Dir: dir, DiskBytes: 6 << 40, Sparse: true}, func(c *cluster) (err error) {
		var points []point
		var volumes []*spread
		defer func() {
			for _, x := range volumes {
				err = errors.Join(err, x.session.Close())
			}
		}()
		for _, size := range []uint64{1 << 30, 64 << 30, 1 << 40, 10 << 40} {
			portals, iqn, err := c.volume(ctx, "s"+strconv.FormatUint(size>>30, 10), size, 3)
			if err != nil {
				return err
			}
			x, err := dialSpread(ctx, portals, iqn, size, places)
			if err != nil {
				return err
			}
			volumes = append(volumes, x)
			points = append(points, point{fmt.Sprintf("%d GiB", size>>30), c, func(reads int, d time.Duration) (load.Result, error) { return x.run(ctx, reads, scaleDepth, d) }})
		}
		if err := r.measure(ctx, t, points...); err != nil {
			return err
		}
		for _, x := range volumes {
			if err := x.ledger.Verify(ctx, x.session); err != nil {
				return err
			}
		}
		return nil
	})
}

// scaleChain takes snapshots of volumes, with writes between them, and measures the live volumes. After the last snapshot each is written in full, because
// the first write to a place after a snapshot costs a copy of its unit, with one snapshot as with many.
func (r *Runner) scaleChain(ctx context.Context, t *Table, storaged, dir string) error {
	const span = 128 << 20
	return within(ctx, ClusterOptions{Storaged: storaged, Dir: dir, DiskBytes: 24 << 30, Sparse: true}, func(c *cluster) error {
		var points []point
		for _, n := range []int{0, 1, 16, 64} {
			name := "v" + strconv.Itoa(n)
			u, err := c.unit(ctx, name, span, 3)
			if err != nil {
				return err
			}
			c.units[3] = append(c.units[3], u)
			for k := range n {
				var ignored map[string]any
				if err := c.ctl(ctx, &ignored, "volume", "snapshot", name, "s"+strconv.Itoa(k)); err != nil {
					return err
				}
				if _, err := runUnits(ctx, []*unit{u}, Workload{BlockBytes: 4096, Depth: scaleDepth}, 100*time.Millisecond); err != nil {
					return err
				}
			}
			if err := u.fill(ctx); err != nil {
				return err
			}
			points = append(points, unitPoint(ctx, fmt.Sprintf("%d snapshots", n), c, u))
		}
		if err := r.measure(ctx, t, points...); err != nil {
			return err
		}
		return c.Verify(ctx)
	})
}

// scaleFill fills the pools of as many clusters and measures a volume of each.
func (r *Runner) scaleFill(ctx context.Context, t *Table, storaged, dir string) (err error) {
	const disk, span = 1536 << 20, 64 << 20
	var points []point
	var clusters []*cluster
	defer func() {
		for _, c := range clusters {
			err = errors.Join(err, c.Close())
		}
	}()
	for _, percent := range []uint64{10, 50, 80, 95} {
		c, err := startCluster(ctx, ClusterOptions{Storaged: storaged, Dir: dir + "-" + strconv.FormatUint(percent, 10), DiskBytes: disk})
		if err != nil {
			return err
		}
		clusters = append(clusters, c)
		full, err := c.fillPool(ctx, span, percent)
		if err != nil {
			return err
		}
		points = append(points, unitPoint(ctx, fmt.Sprintf("%d %% full", full), c, c.units[3][0]))
	}
	if err := r.measure(ctx, t, points...); err != nil {
		return err
	}
	for _, c := range clusters {
		err = errors.Join(err, c.Verify(ctx))
	}
	return err
}

// fillPool makes volumes of span bytes until so many percent of the pool are used, and returns how many are.
func (c *cluster) fillPool(ctx context.Context, span, percent uint64) (uint64, error) {
	var status struct{ TotalBytes, UsedBytes uint64 }
	for i := 0; ; i++ {
		if err := c.ctl(ctx, &status, "status"); err != nil {
			return 0, err
		}
		if status.UsedBytes*100 >= status.TotalBytes*percent || status.UsedBytes*100+3*span*100 > status.TotalBytes*97 {
			return status.UsedBytes * 100 / status.TotalBytes, nil
		}
		u, err := c.unit(ctx, "f"+strconv.Itoa(i), span, 3)
		if err != nil {
			return 0, err
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
			return 0, err
		}
	}
}
