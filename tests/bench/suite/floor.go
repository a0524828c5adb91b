package suite

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/iomesh/iomesh/tests/bench/floor"
	"github.com/iomesh/iomesh/tests/bench/load"
)

// floorSubject is a primary and two replicas of the floor, as processes.
type floorSubject struct {
	cmds   []*exec.Cmd
	client *floor.Client
}

// StartFloor starts the floor's processes, which are this program's with the argument "floor", below dir.
func StartFloor(ctx context.Context, self, dir string) (Subject, error) {
	f := &floorSubject{}
	var replicas []string
	for _, name := range []string{"replica1", "replica2", "primary"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, errors.Join(fmt.Errorf("find a port for the floor: %w", err), f.Close())
		}
		address := l.Addr().String()
		l.Close()
		argv := []string{self, "floor", address, filepath.Join(dir, name+".journal")}
		if name == "primary" {
			argv = append(argv, strings.Join(replicas, ","))
		}
		c, err := start(filepath.Join(dir, name+".log"), argv...)
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		f.cmds, replicas = append(f.cmds, c), append(replicas, address)
		ready := filepath.Join(dir, name+".log")
		if err := until(ctx, time.Minute, "the floor's "+name+" listens", func() error {
			b, err := os.ReadFile(ready)
			if err == nil && len(b) == 0 {
				err = errors.New("it has said nothing")
			}
			return err
		}); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	var err error
	if f.client, err = floor.Dial(ctx, replicas[2]); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// ServeFloor is the program of one process of the floor.
func ServeFloor(address, journal, replicas string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("floor: %w", err)
	}
	fmt.Println("listening at", address)
	var list []string
	if replicas != "" {
		list = strings.Split(replicas, ",")
	}
	return floor.Serve(l, journal, list)
}

func (f *floorSubject) Name() string { return "floor" }

func (f *floorSubject) Processes() map[string]int {
	m := map[string]int{}
	for i, c := range f.cmds {
		m[fmt.Sprintf("floor%d", i+1)] = c.Process.Pid
	}
	return m
}

func (f *floorSubject) Run(ctx context.Context, w Workload, d time.Duration) (load.Result, error) {
	if w.ReadPercent != 0 || w.BlockBytes != 4096 {
		return load.Result{}, fmt.Errorf("workload %s: the floor takes writes of 4096 bytes only", w.Name)
	}
	return f.client.Run(ctx, w.Depth, d)
}

// Verify has nothing to do: the floor's journals wrap round.
func (f *floorSubject) Verify(context.Context) error { return nil }

func (f *floorSubject) Close() error {
	var err error
	if f.client != nil {
		err = f.client.Close()
	}
	for _, c := range f.cmds {
		stop(c)
	}
	return err
}
