package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// row is one fault.
type row struct {
	name  string
	stall map[string]time.Duration // by probe
	bar   time.Duration            // 0: none
}

type report struct{ rows []row }

// print writes the table of stalls.
func (r *report) print() {
	fmt.Printf("\n%-44s %10s %10s %8s\n", "longest I/O of the probes", "ext4", "xfs", "bar")
	for _, x := range r.rows {
		bar := "–"
		if x.bar > 0 {
			bar = x.bar.String()
		}
		fmt.Printf("%-44s %10s %10s %8s\n", x.name, x.stall["ext4"].Round(time.Millisecond), x.stall["xfs"].Round(time.Millisecond), bar)
	}
	fmt.Println()
}

// trouble matches what a kernel log must not hold.
var trouble = regexp.MustCompile(`(?i)I/O error|critical (medium|target|space)|lost async page write|remount.*read-only|EXT4-fs (error|warning)|XFS.*(error|shutdown|corrupt)|rejecting I/O|offlined|journal.*abort|blk_update_request|medium error|hung_task|blocked for more than`)

// kernelLog keeps the guest's kernel log, and fails if it tells of trouble.
func (w *world) kernelLog() error {
	text, err := w.machine.exec(20, "dmesg")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(w.dir, "dmesg.log"), []byte(text), 0o600); err != nil {
		return err
	}
	var bad []string
	for line := range strings.Lines(text) {
		if trouble.MatchString(line) {
			bad = append(bad, strings.TrimSpace(line))
		}
	}
	if len(bad) > 0 {
		return fmt.Errorf("the guest's kernel log has %d lines of trouble:\n%s", len(bad), strings.Join(bad, "\n"))
	}
	say("the guest's kernel log has %d lines, none of trouble", strings.Count(text, "\n"))
	return nil
}
