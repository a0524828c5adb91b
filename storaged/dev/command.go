package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/iomesh/iomesh/internal/quantity"
)

// Options of a development cluster.
type Options struct {
	Dir          string
	Chunks       int
	Disks        int
	DiskBytes    int64
	Processes    bool
	RestartAfter time.Duration
	Prewrite     bool
	RepairDelay  time.Duration
	Log          *slog.Logger
	Out          io.Writer
}

// NewCommand is `storaged dev`.
func NewCommand() *cobra.Command {
	o := Options{}
	var size string
	cmd := &cobra.Command{
		Use:   "dev --dir DIR",
		Short: "Run a whole cluster on this machine, with files as disks",
		Args:  cobra.NoArgs,
	}
	f := cmd.Flags()
	f.StringVar(&o.Dir, "dir", "", "directory of the cluster; kept, so that it can be started again")
	f.IntVar(&o.Chunks, "chunks", 3, "number of chunk servers, 1 to 9")
	f.IntVar(&o.Disks, "disks", 2, "disks per chunk, 1 to 16")
	f.StringVar(&size, "disk-size", "8Gi", "size of each disk, at least 256Mi")
	f.BoolVar(&o.Processes, "processes", false, "run each daemon as a process of its own; pids are in `storaged ctl status -o json`")
	f.DurationVar(&o.RestartAfter, "restart-after", 3*time.Second, "with --processes: start a daemon that died again after this time; 0: never")
	f.BoolVar(&o.Prewrite, "prewrite", false, "write the disks' files in full first: slower to start, twice as fast to write")
	f.DurationVar(&o.RepairDelay, "repair-delay", 10*time.Minute, "how long the replicas of a dead chunk are waited for before they are made elsewhere")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := o.complete(size); err != nil {
			return err
		}
		o.Out = cmd.OutOrStdout()
		return Run(cmd.Context(), o)
	}
	return cmd
}

type usageError struct{ error }

func (usageError) ExitCode() int { return 2 }

func (o *Options) complete(size string) error {
	if o.Dir == "" {
		return usageError{errors.New("--dir is required: a directory for the cluster's files")}
	}
	abs, err := filepath.Abs(o.Dir)
	if err != nil {
		return err
	}
	o.Dir = abs
	q, err := quantity.Parse(size)
	if err != nil {
		return usageError{fmt.Errorf("--disk-size: %w", err)}
	}
	o.DiskBytes = int64(min(q, 1<<50)) / 4096 * 4096
	switch {
	case o.DiskBytes < 256<<20:
		return usageError{fmt.Errorf("--disk-size %s is below 256Mi", size)}
	case o.Chunks < 1 || o.Chunks > 9:
		return usageError{fmt.Errorf("--chunks %d is not within 1 and 9", o.Chunks)}
	case o.Disks < 1 || o.Disks > 16:
		return usageError{fmt.Errorf("--disks %d is not within 1 and 16", o.Disks)}
	}
	return nil
}

// Run starts the cluster and serves until ctx ends.
func Run(ctx context.Context, o Options) error {
	c, stop, err := Start(ctx, o)
	if err != nil {
		return err
	}
	defer stop()
	exe := "storaged"
	if p, err := os.Executable(); err == nil {
		exe = p
	}
	fmt.Fprintf(o.Out, `cluster   %s (%d chunks, %d disks each)
portal    %s
control   %s

make a LUN:  %s ctl --dir %s volume create vol1 --size 1Gi --replicas 3
look at it:  %s ctl --dir %s status
`, c.ClusterID, o.Chunks, o.Disks, c.Portal, c.Meta[0], exe, o.Dir, exe, o.Dir)
	<-ctx.Done()
	return nil
}
