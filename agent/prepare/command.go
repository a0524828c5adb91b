package prepare

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/iomesh/iomesh/agent/host"
)

// Runner runs a program of the machine in the machine's own namespaces. The first argument is the program's absolute path there. It returns
// what the program wrote to standard output; an error holds what it wrote to standard error.
type Runner interface {
	Run(ctx context.Context, argv []string) ([]byte, error)
}

// commandMax bounds one command: systemctl waits for the daemon that it starts.
const commandMax = 2 * time.Minute

// outputMax bounds each of the two outputs of a command, in bytes.
const outputMax = 4 << 20

// namespaces runs in the mount namespace of the machine's first process, whose root directory is the machine's, and in its network
// namespace: the control socket of multipathd is an abstract one, which belongs to a network namespace.
type namespaces struct{ proc string }

func (n namespaces) Run(ctx context.Context, argv []string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, commandMax)
	defer cancel()
	ns := filepath.Join(n.proc, "1/ns")
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--mount=" + ns + "/mnt", "--net=" + ns + "/net", "--"}, argv...)...)
	// Without SysV's links of run levels: systemd does not need them, and they are not recorded.
	cmd.Env = []string{"SYSTEMCTL_SKIP_SYSV=1", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0"}
	cmd.WaitDelay = time.Second
	var out, errs bounded
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		if text := strings.Join(strings.Fields(errs.buf.String()), " "); text != "" {
			return nil, fmt.Errorf("%s: %w: %.400s", strings.Join(argv, " "), err, text)
		}
		return nil, fmt.Errorf("%s: %w", strings.Join(argv, " "), err)
	}
	return out.buf.Bytes(), nil
}

// bounded is a buffer that refuses to grow beyond outputMax. It has no ReadFrom, which copying would use instead of Write.
type bounded struct{ buf bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if b.buf.Len()+len(p) > outputMax {
		return 0, errors.New("the output is too long")
	}
	return b.buf.Write(p)
}

// program returns where the machine has a program, "" when it has not.
func (r *run) program(name string) string { return host.Program(r.root, name) }

// command is the argument list of a program of the machine; an error if it has none of that name.
func (r *run) command(name string, args ...string) ([]string, error) {
	file := r.program(name)
	if file == "" {
		return nil, fmt.Errorf("the machine has no program %s", name)
	}
	return append([]string{file}, args...), nil
}

// ask runs a command that changes nothing.
func (r *run) ask(ctx context.Context, name string, args ...string) (string, error) {
	argv, err := r.command(name, args...)
	if err != nil {
		return "", err
	}
	out, err := r.opts.Runner.Run(ctx, argv)
	return string(out), err
}

// perform runs commands that change something.
func (r *run) perform(ctx context.Context, commands [][]string) error {
	for _, argv := range commands {
		r.before("run " + strings.Join(argv, " "))
		if _, err := r.opts.Runner.Run(ctx, argv); err != nil {
			return err
		}
	}
	return nil
}
