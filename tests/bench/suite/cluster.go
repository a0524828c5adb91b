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
	name          string
	storaged, dir string
	cmd           *exec.Cmd
	units         map[int][]*unit // by number of replicas
	pids          map[string]int
}

const clusterVolumes = 4

// ClusterOptions say what cluster is started.
type ClusterOptions struct {
	// Storaged is the program, Dir an empty directory.
	Storaged, Dir string
	// Name is how the cluster is called in reports ("iomesh").
	Name string
	// Chunks is the number of data servers with a disk each (3); DiskBytes the size of a disk.
	Chunks    int
	DiskBytes uint64
	// Sparse disks are written in full only where they are used first: for sizes that the machine does not have.
	Sparse bool
	// RepairDelay is how long a replica that is away is waited for; 0: the default.
	RepairDelay time.Duration
	// Env is added to the environment of the processes.
	Env []string
}

// StartCluster starts a cluster below dir with volumes of span bytes: four with three replicas, one with two.
func StartCluster(ctx context.Context, storaged, dir string, span uint64) (Subject, error) {
	return StartBuild(ctx, ClusterOptions{Storaged: storaged, Dir: filepath.Join(dir, "cluster")}, span)
}

// StartBuild is StartCluster with the size of the disks to fit.
func StartBuild(ctx context.Context, o ClusterOptions, span uint64) (Subject, error) {
	o.DiskBytes = (clusterVolumes+1)*span + span/2 + 1<<30
	c, err := startCluster(ctx, o)
	if err != nil {
		return nil, err
	}
	for i := range clusterVolumes + 1 {
		replicas := 3
		if i == clusterVolumes {
			replicas = 2
		}
		u, err := c.unit(ctx, "bench"+strconv.Itoa(i), span, replicas)
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
		c.units[replicas] = append(c.units[replicas], u)
	}
	return c, nil
}

// startCluster starts a cluster without volumes.
func startCluster(ctx context.Context, o ClusterOptions) (*cluster, error) {
	c := &cluster{name: o.Name, storaged: o.Storaged, dir: o.Dir, units: map[int][]*unit{}, pids: map[string]int{}}
	if c.name == "" {
		c.name = "iomesh"
	}
	if o.Chunks == 0 {
		o.Chunks = 3
	}
	args := []string{o.Storaged, "dev", "--dir", c.dir, "--processes", "--disks", "1", "--chunks", strconv.Itoa(o.Chunks),
		"--disk-size", strconv.FormatUint(o.DiskBytes>>20, 10) + "Mi", "--restart-after", "0"}
	if o.Sparse {
		for i := range o.Chunks {
			if err := sparseDisk(filepath.Join(c.dir, "nodes", fmt.Sprintf("n%d", i+1), "data", "disk0.img"), int64(o.DiskBytes)); err != nil {
				return nil, err
			}
		}
	} else {
		args = append(args, "--prewrite")
	}
	if o.RepairDelay > 0 {
		args = append(args, "--repair-delay", o.RepairDelay.String())
	}
	var err error
	if c.cmd, err = startEnv(c.dir+".log", o.Env, args...); err != nil {
		return nil, err
	}
	if err := c.await(ctx, o.Chunks, o.DiskBytes); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// unit makes a volume, logs in to it and fills it.
func (c *cluster) unit(ctx context.Context, name string, size uint64, replicas int) (*unit, error) {
	portals, iqn, err := c.volume(ctx, name, size, replicas)
	if err != nil {
		return nil, err
	}
	return dialUnit(ctx, portals, iqn, size)
}

// volume makes a volume and tells where it is reached.
func (c *cluster) volume(ctx context.Context, name string, size uint64, replicas int) (portals []string, iqn string, err error) {
	var v volumeState
	err = c.ctl(ctx, &v, "volume", "create", name, "--size", strconv.FormatUint(size>>20, 10)+"Mi", "--replicas", strconv.Itoa(replicas), "--timeout", "10m")
	return v.Portals, v.IQN, err
}

// volumeState is what is used of what ctl says of a volume.
type volumeState struct {
	IQN             string
	Portals         []string
	OwnerNode       string
	ExtentsDegraded int
}

// show asks for the state of a volume.
func (c *cluster) show(ctx context.Context, name string) (v volumeState, err error) {
	err = c.ctl(ctx, &v, "volume", "show", name)
	return v, err
}

func (c *cluster) ctl(ctx context.Context, into any, args ...string) error {
	args = append([]string{"ctl", "--dir", c.dir}, append(args, "-o", "json")...)
	cmd := exec.CommandContext(ctx, c.storaged, args...)
	out, err := cmd.Output()
	var ee *exec.ExitError
	// A command that found something wrong with the cluster tells what it found all the same.
	if errors.As(err, &ee) && len(out) == 0 {
		return fmt.Errorf("storaged %v: %s", args, ee.Stderr)
	}
	if err != nil && ee == nil {
		return fmt.Errorf("storaged %v: %w", args, err)
	}
	if err := json.Unmarshal(out, into); err != nil {
		return fmt.Errorf("storaged %v: %w", args, err)
	}
	return nil
}

// await returns when all chunks are online with their disks.
func (c *cluster) await(ctx context.Context, chunks int, disk uint64) error {
	var status struct {
		Meta  []struct{ PID int }
		Nodes []struct {
			Name, State string
			PID         int
		}
		TotalBytes uint64
	}
	err := until(ctx, 3*time.Minute, "all chunks online with their disks", func() error {
		if err := c.ctl(ctx, &status, "status"); err != nil {
			return err
		}
		online := 0
		for _, n := range status.Nodes {
			if n.State == "Online" && n.PID != 0 {
				online++
			}
		}
		// More than all disks but one can have.
		if online != chunks || status.TotalBytes < disk/2*uint64(2*chunks-1) {
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
	return nil
}

func (c *cluster) Name() string              { return c.name }
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
