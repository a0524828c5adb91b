package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// insideEnv marks the re-run program.
const insideEnv = "IOMESH_FAULTS_INSIDE"

// Inside runs this program again in a private network namespace and returns its exit code; done is false in the re-run one, which goes on.
// The error says why there is no namespace to be had.
func Inside() (code int, done bool, err error) {
	if os.Getenv(insideEnv) != "" {
		return 0, false, nil
	}
	exe, err := os.Executable()
	if err != nil {
		return 0, false, err
	}
	cmd := exec.Command(exe, os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	// Pdeathsig follows the thread.
	runtime.LockOSThread()
	if err := cmd.Start(); err != nil {
		return 0, false, fmt.Errorf("network namespace: %w", err)
	}
	// The child is the one that tidies up. A terminal's interrupt reaches it without our help.
	ask := make(chan os.Signal, 1)
	signal.Notify(ask, syscall.SIGTERM)
	go func() {
		for s := range ask {
			_ = cmd.Process.Signal(s)
		}
	}()
	err = cmd.Wait()
	signal.Stop(ask)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), true, nil
	}
	return 0, true, err
}

// place is where processes are started: a thread inside a network namespace, which lives as long as the place. Processes that are
// started by it are killed when it ends.
type place struct {
	ask chan func()
}

// newPlace starts the thread, in a network namespace of its own unless shared.
func newPlace(shared bool) (*place, *os.File, error) {
	p := &place{ask: make(chan func())}
	type made struct {
		ns  *os.File
		err error
	}
	ready := make(chan made)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		var m made
		if !shared {
			if m.err = unix.Unshare(unix.CLONE_NEWNET); m.err == nil {
				m.ns, m.err = os.Open("/proc/thread-self/ns/net")
			}
		}
		ready <- m
		if m.err != nil {
			return
		}
		for f := range p.ask {
			f()
		}
	}()
	m := <-ready
	return p, m.ns, m.err
}

// do runs f on the thread.
func (p *place) do(f func() error) error {
	done := make(chan error)
	p.ask <- func() { done <- f() }
	return <-done
}

func (p *place) close() { close(p.ask) }

// ip runs ip(8), on the calling thread's namespace.
func ip(ctx context.Context, extra *os.File, args ...string) error {
	cmd := exec.CommandContext(ctx, "ip", args...)
	if extra != nil {
		cmd.ExtraFiles = []*os.File{extra}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

const (
	bridge  = "br0"
	ourAddr = "10.77.0.100"
)

// makeBridge gives this program's namespace its end of the network.
func makeBridge(ctx context.Context) error {
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"link", "add", bridge, "type", "bridge"},
		{"addr", "add", ourAddr + "/24", "dev", bridge},
		{"link", "set", bridge, "up"},
	} {
		if err := ip(ctx, nil, args...); err != nil {
			return err
		}
	}
	return nil
}

// plug joins a node's namespace to the bridge.
func plug(ctx context.Context, n *Node, ns *os.File) error {
	// The peer is made here and moved: /proc/self/fd/3 is the namespace.
	if err := ip(ctx, ns, "link", "add", n.cable(), "type", "veth", "peer", "name", "eth0", "netns", "/proc/self/fd/3"); err != nil {
		return err
	}
	if err := ip(ctx, nil, "link", "set", n.cable(), "master", bridge, "up"); err != nil {
		return err
	}
	return n.place.do(func() error {
		for _, args := range [][]string{
			{"link", "set", "lo", "up"},
			{"addr", "add", n.Address + "/24", "dev", "eth0"},
			{"link", "set", "eth0", "up"},
		} {
			if err := ip(ctx, nil, args...); err != nil {
				return err
			}
		}
		return nil
	})
}

func (n *Node) cable() string { return "cable-" + n.Name }

// Cut takes the node's cable out of the bridge; Heal puts it back.
func (n *Node) Cut(ctx context.Context) error {
	if n.flat {
		return errors.New("no network namespaces: the network of a node cannot be cut")
	}
	return ip(ctx, nil, "link", "set", n.cable(), "nomaster")
}

// Heal undoes Cut.
func (n *Node) Heal(ctx context.Context) error {
	return ip(ctx, nil, "link", "set", n.cable(), "master", bridge)
}
