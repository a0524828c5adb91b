// Package command runs programs for the test cluster: argument lists only,
// and errors that say which program failed, on what, and what it printed.
package command

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// stderrMax bounds how much of a failed program's output an error carries.
const stderrMax = 2000

// Error reports a program that could not be started or did not exit 0.
type Error struct {
	Argv   []string
	Stderr string // the end of what it printed, at most stderrMax bytes
	Err    error
}

func (e *Error) Error() string {
	s := fmt.Sprintf("run %s: %v", strings.Join(e.Argv, " "), e.Err)
	if e.Stderr != "" {
		s += ": " + e.Stderr
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// Run runs argv to its end. The program dies when ctx is done.
func Run(ctx context.Context, argv ...string) error {
	_, err := Output(ctx, argv...)
	return err
}

// Output runs argv to its end and returns what it wrote to standard output.
func Output(ctx context.Context, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	return Collect(cmd, cmd.Run)
}

// Collect runs a prepared command by run (cmd.Run, or a wrapper of it) and
// returns its standard output. It sets cmd.Stdout and cmd.Stderr.
func Collect(cmd *exec.Cmd, run func() error) (string, error) {
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := run(); err != nil {
		text := strings.TrimSpace(errOut.String())
		if text == "" {
			text = strings.TrimSpace(out.String())
		}
		if len(text) > stderrMax {
			text = "... " + text[len(text)-stderrMax:]
		}
		return out.String(), &Error{Argv: cmd.Args, Stderr: text, Err: err}
	}
	return out.String(), nil
}
