package suite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/iomesh/iomesh/tests/bench/load"
)

// cluster is three chunk processes and one of metadata on this machine, with files, written in full, as disks.
type cluster struct {
	storaged, dir string
	cmd           *exec.Cmd
	units         map[int][]*unit // by number of replicas
	pids          map[string]int
}

const clusterVolumes = 4

// StartCluster starts a cluster below dir with volumes of span bytes: four with three replicas, one with two.
func StartCluster(ctx context.Context, storaged, dir string, span uint64) (Subject, error) {
	c := &cluster{storaged: storaged, dir: filepath.Join(dir, "cluster"), units: map[int][]*unit{}, pids: map[string]int{}}
	disk := (clusterVolumes+1)*span + span/2 + 1<<30
	var err error
	c.cmd, err = start(filepath.Join(dir, "cluster.log"), storaged, "dev", "--dir", c.dir, "--processes", "--prewrite", "--disks", "1",
		"--disk-size", strconv.FormatUint(disk>>20, 10)+"Mi", "--restart-after", "0")
	if err != nil {
		return nil, err
	}
	if err := c.prepare(ctx, span, disk); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *cluster) ctl(ctx context.Context, into any, args ...string) error {
	args = append([]string{"ctl", "--dir", c.dir}, append(args, "-o", "json")...)
	cmd := exec.CommandContext(ctx, c.storaged, args...)
	out, err := cmd.Output()
	var ee *exec.ExitError
	if errors.As(err, &ee) {
		return fmt.Errorf("storaged %v: %s", args, ee.Stderr)
	}
	if err != nil {
		return fmt.Errorf("storaged %v: %w", args, err)
	}
	if err := json.Unmarshal(out, into); err != nil {
		return fmt.Errorf("storaged %v: %w", args, err)
	}
	return nil
}

func (c *cluster) prepare(ctx context.Context, span, disk uint64) error {
	var status struct {
		Meta  []struct{ PID int }
		Nodes []struct {
			Name, State string
			PID         int
		}
		TotalBytes uint64
	}
	err := until(ctx, 3*time.Minute, "three chunks online with their disks", func() error {
		if err := c.ctl(ctx, &status, "status"); err != nil {
			return err
		}
		online := 0
		for _, n := range status.Nodes {
			if n.State == "Online" && n.PID != 0 {
				online++
			}
		}
		// More than two disks can have.
		if online != 3 || status.TotalBytes < disk/2*5 {
			return fmt.Errorf("%d chunks online, %d bytes", online, status.TotalBytes)
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.pids["dev"] = c.cmd.Process.Pid
	for i, m := range status.Meta {
		c.pids["meta"+strconv.Itoa(i+1)] = m.PID
	}
	for _, n := range status.Nodes {
		c.pids["chunk-"+n.Name] = n.PID
	}
	for i := range clusterVolumes + 1 {
		replicas := 3
		if i == clusterVolumes {
			replicas = 2
		}
		var v struct {
			IQN     string
			Portals []string
		}
		if err := c.ctl(ctx, &v, "volume", "create", "bench"+strconv.Itoa(i), "--size", strconv.FormatUint(span>>20, 10)+"Mi", "--replicas", strconv.Itoa(replicas)); err != nil {
			return err
		}
		u, err := dialUnit(ctx, v.Portals, v.IQN, span)
		if err != nil {
			return err
		}
		c.units[replicas] = append(c.units[replicas], u)
	}
	return nil
}

func (c *cluster) Name() string              { return "iomesh" }
func (c *cluster) Processes() map[string]int { return c.pids }

func (c *cluster) Run(ctx context.Context, w Workload, d time.Duration) (load.Result, error) {
	units := c.units[w.Replicas]
	if w.Volumes < 1 || w.Volumes > len(units) {
		return load.Result{}, fmt.Errorf("workload %s: %d volumes of %d replicas, there are %d", w.Name, w.Volumes, w.Replicas, len(units))
	}
	return runUnits(ctx, units[:w.Volumes], w, d)
}

func (c *cluster) Verify(ctx context.Context) error {
	return errors.Join(verifyUnits(ctx, c.units[3]), verifyUnits(ctx, c.units[2]))
}

func (c *cluster) Close() error {
	var errs []error
	for _, units := range c.units {
		for _, u := range units {
			errs = append(errs, u.session.Close())
		}
	}
	stop(c.cmd)
	return errors.Join(errs...)
}
