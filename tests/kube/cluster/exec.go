package cluster

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"

	"github.com/iomesh/iomesh/tests/kube/command"
)

// nodePath is PATH on a node: the cluster's programs before the machine's.
const nodePath = "PATH=/opt/kube/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Command returns a command that runs argv on a node, in all its namespaces
// but not in its control group: Freeze does not stop it. The caller starts it.
func (c *Cluster) Command(ctx context.Context, nodeName string, argv ...string) (*exec.Cmd, error) {
	n, err := c.node(nodeName)
	if err != nil {
		return nil, err
	}
	return n.command(ctx, argv...)
}

// Exec runs argv on a node as one of its processes and returns its standard
// output. On a frozen node it fails with cgroup.ErrFrozen.
func (c *Cluster) Exec(ctx context.Context, nodeName string, argv ...string) (string, error) {
	n, err := c.node(nodeName)
	if err != nil {
		return "", err
	}
	return n.output(ctx, nil, argv...)
}

func (n *node) command(ctx context.Context, argv ...string) (*exec.Cmd, error) {
	if len(argv) == 0 {
		return nil, fmt.Errorf("no command to run on node %s", n.Name)
	}
	pid, err := n.init()
	if err != nil {
		return nil, err
	}
	args := append([]string{"--target", strconv.Itoa(pid), "--mount", "--uts", "--ipc", "--net", "--cgroup", "--pid", "--"}, argv...)
	cmd := exec.CommandContext(ctx, "nsenter", args...)
	cmd.Dir = "/"
	cmd.Env = []string{nodePath, "HOME=/root", "LANG=C.UTF-8", "TERM=" + os.Getenv("TERM")}
	return cmd, nil
}

// run runs argv on the node, in its control group.
func (n *node) run(ctx context.Context, argv ...string) error {
	_, err := n.output(ctx, nil, argv...)
	return err
}

func (n *node) output(ctx context.Context, stdin io.Reader, argv ...string) (string, error) {
	cmd, err := n.command(ctx, argv...)
	if err != nil {
		return "", err
	}
	cmd.Stdin = stdin
	out, err := command.Collect(cmd, func() error {
		if err := n.Group.Start(cmd); err != nil {
			return err
		}
		return cmd.Wait()
	})
	if err != nil {
		return out, fmt.Errorf("on node %s: %w", n.Name, err)
	}
	return out, nil
}

// daemon starts a program on the node that its process 1 adopts.
func (n *node) daemon(argv ...string) error {
	log, err := openLog(n.path("log", argv[0]+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd, err := n.command(context.Background(), append([]string{"setsid", "--fork"}, argv...)...)
	if err != nil {
		return err
	}
	return runIn(n.Group, cmd, log)
}
