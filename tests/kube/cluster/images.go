package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
)

// ImportImage gives a docker-archive (or OCI archive) to the containerd of
// every running node, and to nodes that start later. A later archive of the
// same file name takes the place of an earlier one.
func (c *Cluster) ImportImage(ctx context.Context, tarFile string) error {
	if _, err := c.load(); err != nil {
		return err
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := c.keepImage(tarFile); err != nil {
		return err
	}
	nodes, err := c.nodes()
	if err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, n := range nodes {
		if n.running() {
			g.Go(func() error { return n.importImages(gctx) })
		}
	}
	return g.Wait()
}

// keepImage copies an archive into the work directory, together with a file
// NAME.sha256 that says what is in it.
func (c *Cluster) keepImage(tarFile string) error {
	in, err := os.Open(tarFile)
	if err != nil {
		return fmt.Errorf("import image: %w", err)
	}
	defer in.Close()
	to := c.path("images", filepath.Base(tarFile))
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return fmt.Errorf("import image %s: %w", tarFile, err)
	}
	out, err := os.Create(to + ".new")
	if err != nil {
		return fmt.Errorf("import image %s: %w", tarFile, err)
	}
	defer out.Close()
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(out, sum), in); err != nil {
		return errors.Join(fmt.Errorf("import image %s: %w", tarFile, err), os.Remove(to+".new"))
	}
	if err := os.Rename(to+".new", to); err != nil {
		return fmt.Errorf("import image %s: %w", tarFile, err)
	}
	if err := os.WriteFile(to+".sha256", []byte(hex.EncodeToString(sum.Sum(nil))), 0o644); err != nil {
		return fmt.Errorf("import image %s: %w", tarFile, err)
	}
	return nil
}

// importImages imports what the node does not have. It must be done before
// kubelet starts a pod: a missing image costs minutes of back-off.
func (n *node) importImages(ctx context.Context) error {
	tars, err := filepath.Glob(n.c.path("images", "*.sha256"))
	if err != nil {
		return err
	}
	if n.Images == nil {
		n.Images = map[string]string{}
	}
	for _, t := range tars {
		sum, err := os.ReadFile(t)
		if err != nil {
			return err
		}
		file := t[:len(t)-len(".sha256")]
		name := filepath.Base(file)
		if n.Images[name] == string(sum) {
			continue
		}
		if err := n.importImage(ctx, file); err != nil {
			return fmt.Errorf("import image %s: %w", name, err)
		}
		n.Images[name] = string(sum)
		if err := n.save(); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) importImage(ctx context.Context, file string) error {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is gone; import it again", file)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = n.output(ctx, f, "ctr", "-n", "k8s.io", "images", "import", "--local", "-")
	return err
}
