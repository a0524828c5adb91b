// Command mkimage makes IOMesh's container images, and those the test cluster
// needs, as docker-archive files. See package image.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/iomesh/iomesh/tests/image"
	"github.com/iomesh/iomesh/tests/kube/toolchain"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

type options struct {
	bin, tag, out string
	required      []string
}

func command() *cobra.Command {
	var o options
	root := &cobra.Command{Use: "mkimage", Short: "Make container images without a container tool", SilenceUsage: true, SilenceErrors: true}
	root.PersistentFlags().StringVarP(&o.out, "output", "o", "", "file to write (required)")
	root.PersistentFlags().StringVar(&o.tag, "tag", "dev", "tag of the image")
	if err := root.MarkPersistentFlagRequired("output"); err != nil {
		panic(err) // the flag is declared above
	}
	sub := func(use, short string, build func(context.Context, image.Builder) (image.Image, error)) *cobra.Command {
		c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
			cache, err := toolchain.CacheDir()
			if err != nil {
				return err
			}
			img, err := build(cmd.Context(), image.Builder{Debs: filepath.Join(cache, "debs")})
			if err != nil {
				return err
			}
			if err := img.Write(o.out); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s\n", o.out, img.Ref)
			return nil
		}}
		root.AddCommand(c)
		return c
	}
	ours := sub("iomesh", "iomesh/iomesh:TAG: our programs and the tools they call", func(ctx context.Context, b image.Builder) (image.Image, error) {
		return b.IOMesh(ctx, o.bin, o.tag, o.required)
	})
	ours.Flags().StringVar(&o.bin, "bin", "bin", "directory of our programs; those missing are left out")
	ours.Flags().StringSliceVar(&o.required, "require", nil, "programs whose absence is an error")
	sub("sidecars", "iomesh/csi-sidecars:TAG: the CSI sidecars", func(ctx context.Context, b image.Builder) (image.Image, error) {
		set, err := tools(ctx, false)
		if err != nil {
			return image.Image{}, err
		}
		return b.Sidecars(set.Bin, o.tag)
	})
	sub("busybox", image.BusyboxRef, func(ctx context.Context, b image.Builder) (image.Image, error) { return b.Busybox(ctx) })
	sub("postgres", image.PostgresRef, func(ctx context.Context, b image.Builder) (image.Image, error) { return b.Postgres(ctx) })
	sub("pause", image.PauseRef, func(ctx context.Context, b image.Builder) (image.Image, error) {
		set, err := tools(ctx, false)
		if err != nil {
			return image.Image{}, err
		}
		return b.Pause(set.Bin)
	})
	sub("agnhost", image.AgnhostRef, func(ctx context.Context, b image.Builder) (image.Image, error) {
		set, err := tools(ctx, true)
		if err != nil {
			return image.Image{}, err
		}
		return b.Agnhost(ctx, set.Bin)
	})
	return root
}

func tools(ctx context.Context, conformance bool) (toolchain.Set, error) {
	return toolchain.Ensure(ctx, toolchain.Options{Conformance: conformance, Progress: func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, format+"\n", args...)
	}})
}
