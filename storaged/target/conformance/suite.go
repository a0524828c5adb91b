// Package conformance runs libiscsi's test suite (iscsi-test-cu of Debian's package libiscsi-bin) against a logical unit and reads its
// output: tests passed, failed and skipped, each with what the suite said. Tests of the target and of whole clusters use it.
//
// The suite overwrites the unit.
package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
)

// Options say what to run. URL is required.
type Options struct {
	// URL is iscsi://[user%secret@]host:port/iqn/lun; SecondURL another path to the same unit, for the multipath tests.
	URL, SecondURL string
	// Tests is a name of the suite's list, such as "ALL" (default) or "ALL.Read10".
	Tests string
}

// Test is the outcome of one test.
type Test struct {
	Name    string // Suite.Test
	Failed  bool
	Skipped bool     // no part of it was carried out, or a part said so
	Said    []string // its messages
}

// Report is the outcome of a run.
type Report struct {
	Tests  []Test
	Output string
}

// Failed lists the tests that failed, Skipped those that skipped something.
func (r *Report) Failed() (list []Test) {
	for _, t := range r.Tests {
		if t.Failed {
			list = append(list, t)
		}
	}
	return list
}

// Skipped lists the tests that skipped something.
func (r *Report) Skipped() (list []Test) {
	for _, t := range r.Tests {
		if t.Skipped {
			list = append(list, t)
		}
	}
	return list
}

// Run runs the suite. An error means that it could not be run to its end; failed tests are in the report.
func Run(ctx context.Context, o Options) (*Report, error) {
	tool, err := exec.LookPath("iscsi-test-cu")
	if err != nil {
		return nil, errors.New("iscsi-test-cu is missing: install the Debian package libiscsi-bin")
	}
	if o.Tests == "" {
		o.Tests = "ALL"
	}
	args := []string{"--dataloss", "--allow-sanitize", "--verbose", "--test", o.Tests, o.URL}
	if o.SecondURL != "" {
		args = append(args, o.SecondURL)
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, tool, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	runErr := cmd.Run()
	r := parse(out.String())
	// The exit status says nothing beyond the output; the summary at the end says that it got there.
	if len(r.Tests) == 0 || !strings.Contains(r.Output, "Elapsed time") {
		return r, fmt.Errorf("iscsi-test-cu did not come to its end (%v): %s", runErr, tail(r.Output))
	}
	return r, nil
}

func tail(s string) string {
	if len(s) > 2000 {
		s = "…" + s[len(s)-2000:]
	}
	return s
}

var (
	suiteLine = regexp.MustCompile(`^Suite: (\S+)`)
	testLine  = regexp.MustCompile(`^  Test: (\S+) \.\.\.(.*)`)
)

func parse(out string) *Report {
	r := &Report{Output: out}
	suite := ""
	var t *Test
	for line := range strings.Lines(out) {
		line = strings.TrimRight(line, "\n")
		if m := suiteLine.FindStringSubmatch(line); m != nil {
			suite, t = m[1], nil
			continue
		}
		if strings.HasPrefix(line, "Run Summary") {
			break
		}
		if m := testLine.FindStringSubmatch(line); m != nil {
			r.Tests = append(r.Tests, Test{Name: suite + "." + m[1]})
			t = &r.Tests[len(r.Tests)-1]
			line = m[2]
		}
		if t == nil {
			continue
		}
		// The verdict is the word at the beginning of a line of its own, or behind the name when the test said nothing. "[FAILED]" is a
		// message; some tests provoke it and pass.
		switch {
		case strings.HasPrefix(line, "FAILED"):
			t.Failed = true
		case strings.HasPrefix(line, "passed"):
			line = strings.TrimPrefix(line, "passed")
		}
		if strings.Contains(line, "[SKIPPED]") {
			t.Skipped = true
		}
		if said := strings.TrimSpace(line); said != "" {
			t.Said = append(t.Said, said)
		}
	}
	return r
}
