// Package netns makes the named network namespaces of the test cluster
// (those that ip-netns(8) shows) and reaches into them from a Go program:
// Dial connects from inside a namespace while the program stays outside.
package netns

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/iomesh/iomesh/tests/kube/command"
)

// dir is where ip-netns(8) keeps its namespaces.
const dir = "/run/netns"

// ClusterID returns the name part that sets the cluster with the work
// directory workDir apart from others on the machine: 6 hex digits.
func ClusterID(workDir string) string {
	sum := sha256.Sum256([]byte(filepath.Clean(workDir)))
	return hex.EncodeToString(sum[:3])
}

// Name returns the name of the namespace of member ("cp", "n1") of a cluster.
func Name(clusterID, member string) string { return "iomesh-" + clusterID + "-" + member }

// Path returns the file that stands for a namespace.
func Path(name string) string { return filepath.Join(dir, name) }

// Exists reports whether a namespace of that name exists.
func Exists(name string) bool {
	_, err := os.Stat(Path(name))
	return err == nil
}

// Add creates a namespace with its loopback interface up.
func Add(ctx context.Context, name string) error {
	if err := command.Run(ctx, "ip", "netns", "add", name); err != nil {
		return err
	}
	return command.Run(ctx, "ip", "-n", name, "link", "set", "lo", "up")
}

// Delete removes a namespace; its interfaces and sockets go with it as soon
// as no process is left in it. Deleting a missing one does nothing.
func Delete(ctx context.Context, name string) error {
	if !Exists(name) {
		return nil
	}
	return command.Run(ctx, "ip", "netns", "del", name)
}

// List returns the names that begin with prefix.
func List(prefix string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list network namespaces: %w", err)
	}
	var names []string
	for _, e := range entries {
		if len(e.Name()) >= len(prefix) && e.Name()[:len(prefix)] == prefix {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Do calls fn on a thread that is inside the namespace. Sockets made by fn
// belong to the namespace for good; goroutines started by fn are outside it.
func Do(name string, fn func() error) error {
	done := make(chan error, 1)
	go func() { done <- do(name, fn) }()
	return <-done
}

func do(name string, fn func() error) error {
	runtime.LockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open own network namespace: %w", err)
	}
	defer home.Close()
	target, err := os.Open(Path(name))
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer target.Close()
	if err := unix.Setns(int(target.Fd()), unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace %s: %w", name, err)
	}
	err = fn()
	// A thread that cannot return stays locked, so that it ends with this
	// goroutine and nothing else ever runs in the wrong namespace.
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, fmt.Errorf("leave network namespace %s: %w", name, back))
	}
	runtime.UnlockOSThread()
	return err
}

// Dialer dials from inside a namespace. Its DialContext fits
// rest.Config.Dial, http.Transport.DialContext and grpc.WithContextDialer.
type Dialer struct {
	Namespace string // a name as returned by Name
}

// DialContext connects to address, which must be an IP literal with a port:
// there is no name service in the cluster's namespaces, and a look-up could
// leave the thread that is inside.
func (d Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(address); err != nil {
		return nil, fmt.Errorf("dial %s in network namespace %s: only an IP address and a port: %w", address, d.Namespace, err)
	}
	var conn net.Conn
	err := Do(d.Namespace, func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Tidy removes the directory of named namespaces, and the mount ip-netns(8)
// puts there, if no namespace is left in it.
func Tidy() {
	if left, err := List(""); err != nil || len(left) > 0 {
		return
	}
	// Failing is harmless: an empty directory stays.
	_ = unix.Unmount(dir, 0)
	_ = os.Remove(dir)
}
