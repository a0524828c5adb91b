// Package crash ends a plugin at chosen steps of its calls, once each: a test of what a kill at that step leaves behind. In a running cluster the
// steps are named by the environment variable IOMESH_CSI_CRASH_AT; without it nothing here does anything.
package crash

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Env names the steps: a comma-separated list, or "all".
const Env = "IOMESH_CSI_CRASH_AT"

// all stands for every step.
const all = "all"

// status is what a process killed by SIGKILL ends with.
const status = 137

// At returns the function to call at each step, nil without a wish. known are the plugin's steps; dir is a directory that outlives the
// process, where a file for each step says that it was done. end ends the process.
func At(wish string, known []string, dir string, end func(status int), log *slog.Logger) (func(step string) error, error) {
	if wish == "" {
		return nil, nil
	}
	at := known
	if wish != all {
		at = strings.Split(wish, ",")
	}
	for _, step := range at {
		if !slices.Contains(known, step) {
			return nil, fmt.Errorf("%s=%s: %q is none of %s, %s", Env, wish, step, strings.Join(known, ", "), all)
		}
	}
	return func(step string) error {
		if !slices.Contains(at, step) {
			return nil
		}
		f, err := os.OpenFile(filepath.Join(dir, "crashed-at-"+step), os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("end the process at %s: %w", step, err)
		}
		if err := f.Close(); err != nil {
			return fmt.Errorf("end the process at %s: %w", step, err)
		}
		log.Warn("ending the process, as asked for", "step", step)
		end(status)
		return nil
	}, nil
}
