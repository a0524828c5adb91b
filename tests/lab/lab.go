package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/iomesh/iomesh/tests/kube/cluster"
)

// Namespace IOMesh is installed in.
const Namespace = "iomesh-system"

// Lab is a cluster with IOMesh on it.
type Lab struct {
	Cluster *cluster.Cluster
	// Root is the checkout; Bin its built programs.
	Root, Bin string
	// Out gets the narrative: commands, what they said, how long they took.
	Out   io.Writer
	start time.Time
}

// Open describes the cluster in dir ("": the default); nothing is started.
func Open(root, dir string, out io.Writer) (*Lab, error) {
	c, err := cluster.Open(cluster.Options{Dir: dir, Progress: func(format string, args ...any) {
		fmt.Fprintf(out, "          "+format+"\n", args...)
	}})
	if err != nil {
		return nil, err
	}
	return &Lab{Cluster: c, Root: root, Bin: filepath.Join(root, "bin"), Out: out, start: time.Now()}, nil
}

// Say adds a line to the narrative.
func (l *Lab) Say(format string, args ...any) {
	fmt.Fprintf(l.Out, "%7.1fs  %s\n", time.Since(l.start).Seconds(), fmt.Sprintf(format, args...))
}

// Title begins a chapter.
func (l *Lab) Title(format string, args ...any) {
	fmt.Fprintf(l.Out, "\n%7.1fs  === %s\n", time.Since(l.start).Seconds(), fmt.Sprintf(format, args...))
}

// command makes a command that runs where the API server can be reached.
func (l *Lab) command(ctx context.Context, argv ...string) *exec.Cmd {
	full := append(append([]string{}, l.Cluster.Enter()...), argv...)
	cmd := exec.CommandContext(ctx, full[0], full[1:]...)
	path := l.Bin
	if bin, err := l.Cluster.Bin(); err == nil {
		path = bin + ":" + path
	}
	cmd.Env = append(os.Environ(), "KUBECONFIG="+l.Cluster.Kubeconfig(), "PATH="+path+":"+os.Getenv("PATH"), "NO_COLOR=1")
	return cmd
}

// Run runs a command quietly and returns its standard output; the error holds what it said on standard error.
func (l *Lab) Run(ctx context.Context, argv ...string) (string, error) {
	return l.input(ctx, nil, argv...)
}

func (l *Lab) input(ctx context.Context, stdin io.Reader, argv ...string) (string, error) {
	cmd := l.command(ctx, argv...)
	var out, msg bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &msg
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(msg.String())
		if text == "" {
			text = strings.TrimSpace(out.String())
		}
		return out.String(), &CommandError{Argv: argv, Err: err, Output: text}
	}
	return out.String(), nil
}

// CommandError is a command that failed.
type CommandError struct {
	Argv   []string
	Err    error
	Output string
}

func (e *CommandError) Error() string {
	return fmt.Sprintf("%s: %v: %s", strings.Join(e.Argv, " "), e.Err, e.Output)
}

func (e *CommandError) Unwrap() error { return e.Err }

// ExitCode is the command's, or -1.
func (e *CommandError) ExitCode() int {
	var x *exec.ExitError
	if errors.As(e.Err, &x) {
		return x.ExitCode()
	}
	return -1
}

// Show runs a command as part of the narrative: the command, what came back, how long it took.
func (l *Lab) Show(ctx context.Context, argv ...string) (string, error) {
	l.Say("$ %s", l.pretty(argv))
	begin := time.Now()
	cmd := l.command(ctx, argv...)
	var out bytes.Buffer
	w := &indenter{w: l.Out}
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&out, w), w
	err := cmd.Run()
	w.end()
	if took := time.Since(begin); took > time.Second {
		fmt.Fprintf(l.Out, "          (%.1f s)\n", took.Seconds())
	}
	if err != nil {
		return out.String(), &CommandError{Argv: argv, Err: err, Output: out.String()}
	}
	return out.String(), nil
}

func (l *Lab) pretty(argv []string) string {
	s := strings.Join(argv, " ")
	s = strings.ReplaceAll(s, "kubectl-iomesh ", "kubectl iomesh ")
	return strings.ReplaceAll(s, l.Root+"/", "")
}

// Kubectl runs kubectl quietly.
func (l *Lab) Kubectl(ctx context.Context, args ...string) (string, error) {
	return l.Run(ctx, append([]string{"kubectl"}, args...)...)
}

// Plugin shows a plugin command.
func (l *Lab) Plugin(ctx context.Context, args ...string) (string, error) {
	return l.Show(ctx, append([]string{"kubectl-iomesh"}, args...)...)
}

// Apply applies manifests.
func (l *Lab) Apply(ctx context.Context, yaml string) error {
	_, err := l.input(ctx, strings.NewReader(yaml), "kubectl", "apply", "-f", "-")
	return err
}

// Until repeats check each 300 ms until it returns "" (done), and shows what it waits for when that changes. It fails after limit with the last reason.
func (l *Lab) Until(ctx context.Context, limit time.Duration, what string, check func(context.Context) string) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	begin, said, shown := time.Now(), "", time.Now()
	for {
		why := check(ctx)
		if why == "" {
			if took := time.Since(begin); took > time.Second {
				l.Say("%s (after %.1f s)", what, took.Seconds())
			}
			return nil
		}
		if why != said && time.Since(shown) > 2*time.Second {
			said, shown = why, time.Now()
			fmt.Fprintf(l.Out, "          … %s\n", firstLine(why))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not after %s: %s", what, limit, why)
		case <-time.After(300 * time.Millisecond):
		}
	}
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	return s
}

// indenter puts a margin before each line.
type indenter struct {
	w   io.Writer
	mid bool
}

func (i *indenter) Write(p []byte) (int, error) {
	for _, line := range strings.SplitAfter(string(p), "\n") {
		if line == "" {
			continue
		}
		if !i.mid {
			fmt.Fprint(i.w, "          ")
		}
		fmt.Fprint(i.w, line)
		i.mid = !strings.HasSuffix(line, "\n")
	}
	return len(p), nil
}

func (i *indenter) end() {
	if i.mid {
		fmt.Fprintln(i.w)
	}
}

// Command makes a command that runs where the API server can be reached, for callers that need its streams.
func (l *Lab) Command(ctx context.Context, argv ...string) *exec.Cmd { return l.command(ctx, argv...) }
