// Command faults runs a block service of real processes under a verifying load and does to it what happens to machines:
//
//	stalls    kill -9, SIGSTOP, a cut network, the meta leader killed, all of etcd down; how long I/O stood still
//	power     everything killed at once, again and again
//	resync    how much a resync copies after an outage under load
//	rebuild   how much a rebuild copies whose destination is killed again and again
//	full      the pool is filled, and goes on after space was freed
//	metadata  all meta members lose their directories, a backup is restored
//	disks     slow, hanging, rotten and failing disks (package faultfs; root)
//	idle      what idle volumes cost
//	all       these, one after the other
//
// Package verify says what is checked, package cluster what it runs on. Exit code 1: something was wrong; 2: wrong use.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/iomesh/iomesh/tests/faults/cluster"
)

// run is what the subcommands share.
type run struct {
	storaged, dir string
	quick, keep   bool
	flat          bool
	only          string
	profiles      string
	volumes       int
	hybrid        bool
	faulty        bool
	metaArgs      []string
	start         time.Time
}

func (r *run) say(format string, args ...any) {
	fmt.Printf("%7.1fs  %s\n", time.Since(r.start).Seconds(), fmt.Sprintf(format, args...))
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	r := &run{start: time.Now()}
	root := &cobra.Command{Use: "faults", Short: "Faults under verifying load", SilenceUsage: true, SilenceErrors: true}
	f := root.PersistentFlags()
	f.StringVar(&r.storaged, "storaged", "bin/storaged", "the program under test")
	f.StringVar(&r.dir, "dir", "", "directory for the cluster's files and disks (default: a temporary one in memory, /dev/shm, so that the three disks do not share one real one)")
	f.BoolVar(&r.quick, "quick", false, "short faults, few repetitions")
	f.BoolVar(&r.keep, "keep", false, "keep the files of a run that passed; those of one that failed always stay")
	f.BoolVar(&r.hybrid, "hybrid", false, "journals on a disk of their own (cacheWithJournal and dataStore)")
	f.StringVar(&r.only, "only", "", "stalls: only the faults whose names contain this")
	f.IntVar(&r.volumes, "volumes", 0, "idle: how many, as a report without a bar (default 200)")
	f.StringVar(&r.profiles, "profiles", "", "idle: directory for CPU profiles of all daemons, taken while they are measured")
	scenarios := []struct {
		name, short string
		do          func(context.Context, *run) error
	}{
		{"stalls", "how long I/O stands still in each fault", stalls},
		{"power", "all processes killed at once under load, and started again", power},
		{"resync", "bytes copied after an outage under load", resync},
		{"rebuild", "bytes copied by a rebuild that is killed ten times", rebuild},
		{"full", "fill the pool, and go on", full},
		{"metadata", "all metadata lost and restored from a backup", metadata},
		{"disks", "slow, hanging, rotten and failing disks", disks},
		{"idle", "CPU and memory of idle volumes", idle},
	}
	all := &cobra.Command{Use: "all", Short: "all of them", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		var errs []error
		for _, s := range scenarios {
			if cmd.Context().Err() != nil {
				break
			}
			errs = append(errs, r.scenario(cmd.Context(), s.name, s.do))
		}
		return errors.Join(errs...)
	}}
	for _, s := range scenarios {
		root.AddCommand(&cobra.Command{Use: s.name, Short: s.short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			return r.scenario(cmd.Context(), s.name, s.do)
		}})
	}
	root.AddCommand(all)
	if cmd, _, err := root.Find(os.Args[1:]); err != nil || !cmd.Runnable() {
		_ = root.Usage()
		os.Exit(2)
	}
	// Before anything else runs: the rest happens in a network of its own.
	code, done, err := cluster.Inside()
	if done {
		os.Exit(code)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "faults: all nodes are on loopback, the network cut is left out:", err)
		r.flat = true
	}
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
		os.Exit(1)
	}
}

// scenario runs one of them in a directory of its own.
func (r *run) scenario(ctx context.Context, name string, do func(context.Context, *run) error) error {
	base := r.dir
	if base == "" {
		base = "/dev/shm"
		if _, err := os.Stat(base); err != nil {
			base = os.TempDir()
		}
	}
	if err := os.MkdirAll(base, 0o700); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(base, "iomesh-faults-"+name+"-")
	if err != nil {
		return err
	}
	mine := *r
	mine.dir = dir
	if mine.storaged, err = filepath.Abs(r.storaged); err != nil {
		return err
	}
	if _, err := os.Stat(mine.storaged); err != nil {
		return fmt.Errorf("the program under test: %w; build it with make storaged", err)
	}
	fmt.Printf("== %s\n", name)
	if err = do(ctx, &mine); err != nil {
		return fmt.Errorf("%s: %w (files and logs: %s)", name, err, dir)
	}
	fmt.Printf("== %s passed\n", name)
	if r.keep {
		fmt.Println("files and logs:", dir)
		return nil
	}
	return os.RemoveAll(dir)
}
