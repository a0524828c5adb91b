package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/iomesh/iomesh/tests/kube/cluster"
	"github.com/iomesh/iomesh/tests/kube/toolchain"
)

func (l *lab) preflightCommand() *cobra.Command {
	return &cobra.Command{Use: "preflight", Short: "Say what this machine lacks, a line each", Args: cobra.NoArgs,
		RunE: l.run(func(cmd *cobra.Command, c *cluster.Cluster, _ []string) error {
			problems := c.Preflight(cmd.Context())
			for _, p := range problems {
				fmt.Fprintln(cmd.OutOrStdout(), p)
			}
			if len(problems) > 0 {
				return errors.New("this machine cannot run the cluster")
			}
			return nil
		})}
}

func (l *lab) buildCommand() *cobra.Command {
	var o toolchain.Options
	cmd := &cobra.Command{Use: "build", Short: "Build the cluster's programs into the cache; prints their directory", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Source = l.source
			o.Progress = func(format string, args ...any) { fmt.Fprintf(cmd.ErrOrStderr(), format+"\n", args...) }
			set, err := toolchain.Ensure(cmd.Context(), o)
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), set.Bin)
			return nil
		}}
	cmd.Flags().BoolVar(&o.Conformance, "with-conformance", false, "also e2e.test, ginkgo and agnhost")
	return cmd
}

func (l *lab) statusCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{Use: "status", Short: "Show the nodes, their power and their disks", Args: cobra.NoArgs,
		RunE: l.run(func(cmd *cobra.Command, c *cluster.Cluster, _ []string) error {
			nodes, err := c.Status(cmd.Context())
			if err != nil {
				return err
			}
			switch format {
			case "json":
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(nodes)
			case "table":
				w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
				fmt.Fprintln(w, "NODE\tIP\tPOWER\tCUT\tREADY\tDISKS\tREASON")
				for _, n := range nodes {
					fmt.Fprintf(w, "%s\t%s\t%s\t%t\t%s\t%d\t%s\n", n.Name, n.IP, n.Power, n.Cut, n.Ready, len(n.Disks), n.Reason)
				}
				return w.Flush()
			}
			return fmt.Errorf("-o %s: table or json", format)
		})}
	cmd.Flags().StringVarP(&format, "output", "o", "table", "table or json")
	return cmd
}

func (l *lab) disksCommand() *cobra.Command {
	disks := &cobra.Command{Use: "disks", Short: "Disks of a node: loop devices over files"}
	var count int
	var size string
	add := &cobra.Command{Use: "add NODE", Short: "Give a node more disks", Args: cobra.ExactArgs(1),
		RunE: l.run(func(cmd *cobra.Command, c *cluster.Cluster, args []string) error {
			q, err := resource.ParseQuantity(size)
			if err != nil {
				return fmt.Errorf("--size %s: %w", size, err)
			}
			made, err := c.MakeDisks(cmd.Context(), args[0], count, q.Value())
			return printDisks(cmd, made, err)
		})}
	add.Flags().IntVar(&count, "count", 1, "how many")
	add.Flags().StringVar(&size, "size", "8Gi", "size of each")
	disks.AddCommand(add,
		&cobra.Command{Use: "list NODE", Short: "List a node's disks", Args: cobra.ExactArgs(1),
			RunE: l.run(func(cmd *cobra.Command, c *cluster.Cluster, args []string) error {
				have, err := c.Disks(args[0])
				return printDisks(cmd, have, err)
			})},
		&cobra.Command{Use: "replace NODE FILE", Short: "Put an empty disk in the place of one", Args: cobra.ExactArgs(2),
			RunE: l.run(func(cmd *cobra.Command, c *cluster.Cluster, args []string) error {
				d, err := c.ReplaceDisk(cmd.Context(), args[0], args[1])
				return printDisks(cmd, []cluster.Disk{d}, err)
			})})
	return disks
}

func printDisks(cmd *cobra.Command, disks []cluster.Disk, err error) error {
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "FILE\tDEVICE\tBYTES")
	for _, d := range disks {
		fmt.Fprintf(w, "%s\t%s\t%d\n", d.File, d.Device, d.SizeBytes)
	}
	return w.Flush()
}
