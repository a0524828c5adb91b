//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/iomesh/iomesh/tests/lab"
)

// ready is a cluster with IOMesh on it and all volumes in sync: the one an earlier test left, or a new one of three nodes with one disk
// each. The context ends with limit.
func ready(t *testing.T, limit time.Duration) (context.Context, *lab.Lab) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	l := openHere(t)
	if err := makeReady(ctx, l); err != nil {
		dump(ctx, l)
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
			defer cancel()
			dump(ctx, l)
		}
	})
	return ctx, l
}

// onOwnCluster makes a new cluster of nodes with two disks each, lets tell use it, and takes it down unless that failed. All of it ends with limit.
func onOwnCluster(t *testing.T, limit time.Duration, nodes int, tell func(context.Context, *lab.Lab, lab.Setup) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	l := openHere(t)
	if err := l.Cluster.Down(ctx, true); err != nil {
		t.Fatal(err)
	}
	setup := lab.Setup{Nodes: nodes, DisksPerNode: 2, DiskBytes: 5 << 28, Tag: tag}
	if err := l.Up(ctx, setup); err != nil {
		t.Fatal(err)
	}
	if err := tell(ctx, l, setup); err != nil {
		dump(ctx, l)
		t.Fatal(err)
	}
	if err := l.Cluster.Down(ctx, true); err != nil {
		t.Error(err)
	}
}

// openHere is open, in the directory IOMESH_E2E_DIR if that is set.
func openHere(t *testing.T) *lab.Lab {
	t.Helper()
	dir := os.Getenv("IOMESH_E2E_DIR")
	if dir == "" {
		return open(t)
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	l, err := lab.Open(root, dir, output{t})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func makeReady(ctx context.Context, l *lab.Lab) error {
	if nodes, err := l.Cluster.Nodes(); err != nil || len(nodes) == 0 {
		if err := l.Up(ctx, lab.Setup{Nodes: 3, DisksPerNode: 1, DiskBytes: 6 << 30, Tag: tag}); err != nil {
			return err
		}
	}
	if _, err := l.Kubectl(ctx, "-n", lab.Namespace, "get", "iomesh", "iomesh"); err != nil {
		if err := install(ctx, l); err != nil {
			return err
		}
	}
	if st, err := l.Status(ctx); err != nil || st.Disks.Active == 0 {
		if err := mapDisks(ctx, l); err != nil {
			return err
		}
	}
	if err := l.Until(ctx, 2*time.Minute, "every pod of IOMesh is ready", func(ctx context.Context) string { return l.NotRunning(ctx) }); err != nil {
		return err
	}
	return l.Until(ctx, lab.StatusWait, "the pool is up", func(ctx context.Context) string { return inSync(ctx, l) })
}

// inSync says what is wrong with nodes and volumes, "" if all replicas are in sync. Unlike lab.Lab.Healthy it does not mind what a test before
// did on purpose, such as logins with a wrong secret.
func inSync(ctx context.Context, l *lab.Lab) string {
	st, err := l.Status(ctx)
	switch {
	case err != nil:
		return err.Error()
	case st.Disks.Active == 0:
		return "no disk is in use"
	case st.Volumes.Degraded+st.Volumes.Unavailable > 0 || st.Resync.LeftBytes > 0:
		return fmt.Sprintf("%s: %d degraded, %d unavailable, %d bytes to copy", st.Reason, st.Volumes.Degraded, st.Volumes.Unavailable, st.Resync.LeftBytes)
	}
	for _, n := range st.Nodes {
		if n.State != "Online" {
			return "node " + n.Name + " is " + n.State
		}
	}
	return ""
}

func install(ctx context.Context, l *lab.Lab) error {
	values, err := l.Values(tag)
	if err != nil {
		return err
	}
	_, err = l.Plugin(ctx, "install", "-f", values, "--wait", "--timeout", "4m")
	return err
}

// disksPublished waits until each node has a disk that can be used.
func disksPublished(ctx context.Context, l *lab.Lab) error {
	nodes, err := l.Cluster.Nodes()
	if err != nil {
		return err
	}
	return l.Until(ctx, time.Minute, "the agents have published the disks", func(ctx context.Context) string {
		out, err := l.Kubectl(ctx, "-n", lab.Namespace, "get", "bd", "-o", "jsonpath={range .items[?(@.status.eligible==true)]}{.metadata.name} {end}")
		if err != nil {
			return err.Error()
		}
		if n := len(strings.Fields(out)); n < len(nodes) {
			return fmt.Sprintf("%d disks are eligible", n)
		}
		return ""
	})
}

// mapDisks takes all disks that can be used.
func mapDisks(ctx context.Context, l *lab.Lab) error {
	if err := disksPublished(ctx, l); err != nil {
		return err
	}
	_, err := l.Plugin(ctx, "disk", "map", "--mount-type", "dataStoreWithJournal", "--all-eligible", "--confirm", "iomesh", "--wait", "--timeout", "3m")
	return err
}
