// Command demo plays the story of tests/story on a real Kubernetes cluster of this machine, which it brings up and leaves up.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/iomesh/iomesh/tests/lab"
	"github.com/iomesh/iomesh/tests/story"
)

func main() {
	root := flag.String("root", ".", "checkout with built programs in bin and images in build/images")
	dir := flag.String("dir", "", "work directory of the cluster (default "+"/tmp/iomesh-kube)")
	tag := flag.String("tag", "dev", "tag of the images")
	from := flag.Int("from", 0, "chapter to begin with, on a cluster that has lived through those before")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *root, *dir, *tag, *from); err != nil {
		fmt.Fprintln(os.Stderr, "\ndemo:", err)
		fmt.Fprintln(os.Stderr, "The cluster is left as it is; take it down with: bin/kubelab down --purge")
		os.Exit(1)
	}
}

func run(ctx context.Context, root, dir, tag string, from int) error {
	begin := time.Now()
	l, err := lab.Open(root, dir, os.Stdout)
	if err != nil {
		return err
	}
	if from == 0 {
		l.Title("a Kubernetes cluster on this machine")
		if err := l.Up(ctx, lab.Setup{Nodes: 3, DisksPerNode: 1, DiskBytes: 4 << 30, Tag: tag}); err != nil {
			return err
		}
	}
	if err := story.Tell(ctx, l, tag, from); err != nil {
		return err
	}
	fmt.Printf(`
The story took %s. Every acknowledged record was there after each fault.

The cluster is up; try it:
  eval "$(bin/kubelab shell-env)"
  $KUBELAB bin/kubectl-iomesh status
  bin/kubelab poweroff n2        # and watch; then: bin/kubelab boot n2
and take it down with:
  bin/kubelab down --purge
`, time.Since(begin).Round(time.Second))
	return nil
}
