package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
)

func cleanHostCommand() *cobra.Command {
	var lib, run, cluster string
	var keepMeta bool
	cmd := &cobra.Command{
		Use:    "clean-host",
		Short:  "Erase what the daemons left in a node's directories (runs on each node when a cluster is deleted)",
		Args:   cobra.NoArgs,
		Hidden: true,
		RunE: func(*cobra.Command, []string) error {
			if cluster == "" || filepath.Base(cluster) != cluster {
				return fmt.Errorf("--cluster %q: must be the name of a cluster", cluster)
			}
			return cleanHost(lib, run, cluster, keepMeta)
		},
	}
	f := cmd.Flags()
	f.StringVar(&lib, "lib", "", "directory of state, as mounted: its last element must be iomesh")
	f.StringVar(&run, "run", "", "directory of sockets, as mounted: its last element must be iomesh")
	f.StringVar(&cluster, "cluster", "", "name of the cluster")
	f.BoolVar(&keepMeta, "keep-meta", false, "leave the state of the metadata members")
	return cmd
}

// cleanHost removes the directories lib and run. With keepMeta, lib/meta/<cluster> stays. It refuses paths that do not end
// in "iomesh", so that a wrong mount erases nothing of the host's.
func cleanHost(lib, run, cluster string, keepMeta bool) error {
	for flag, path := range map[string]string{"--lib": lib, "--run": run} {
		if !filepath.IsAbs(path) || filepath.Base(path) != "iomesh" {
			return fmt.Errorf("%s %q: must be an absolute path that ends in /iomesh", flag, path)
		}
	}
	errs := []error{os.RemoveAll(run)}
	if !keepMeta {
		return errors.Join(append(errs, os.RemoveAll(lib))...)
	}
	errs = append(errs, removeExcept(lib, "meta"), removeExcept(filepath.Join(lib, "meta"), cluster))
	return errors.Join(errs...)
}

// removeExcept removes everything in dir but one entry.
func removeExcept(dir, keep string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("clean %s: %w", dir, err)
	}
	var errs []error
	for _, e := range entries {
		if e.Name() != keep {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}
