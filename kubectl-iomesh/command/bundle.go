package command

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/iomesh/iomesh/internal/status"
	"github.com/iomesh/iomesh/kubectl-iomesh/bundle"
	"github.com/iomesh/iomesh/kubectl-iomesh/fault"
	"github.com/iomesh/iomesh/kubectl-iomesh/output"
	"github.com/iomesh/iomesh/kubectl-iomesh/report"
)

func (e *Env) bundleCommand() *cobra.Command {
	limits := bundle.DefaultLimits
	var path string
	cmd := &cobra.Command{
		Use: "support-bundle", Short: "Collect what somebody else needs to find a fault, without secrets", Args: noArgs,
		Long: "Collect objects, logs and answers of the block service into one archive.\n\n" +
			"By allow-list: no Secret and no ConfigMap is read, environment variables lose their values. index.json lists what is in it, and what is missing and why.\n" +
			"Exit code 3 when something is missing.",
		Example: "  kubectl iomesh support-bundle\n  kubectl iomesh support-bundle -f bundle.tar.gz --log-lines 1000",
	}
	f := cmd.Flags()
	f.StringVarP(&path, "file", "f", "", `archive to write (default iomesh-bundle-TIME.tar.gz; "-": standard output)`)
	f.Int64Var(&limits.LogLines, "log-lines", limits.LogLines, "lines of each container's log, the newest")
	f.DurationVar(&limits.Time, "timeout", limits.Time, "how long the collection may take")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		if limits.LogLines < 0 || limits.Time <= 0 {
			return fault.Usage("--log-lines and --timeout must be positive")
		}
		l, _, err := e.connect(ctx)
		if err != nil {
			return err
		}
		s := bundle.Source{Link: l, Client: clientVersion(), Now: e.Now(), Say: e.say, Reports: map[string][]byte{}}
		if s.Cluster, err = l.Cluster(ctx); err == nil {
			e.reports(ctx, &s)
		} else if fault.Code(err) == fault.CodeUsage {
			return err
		}
		if path == "" {
			path = "iomesh-bundle-" + e.Now().UTC().Format("20060102T150405Z") + ".tar.gz"
		}
		var b bytes.Buffer
		index, err := bundle.Take(ctx, s, limits, &b)
		if err != nil {
			return fault.Failed(err, "", "make the archive")
		}
		if path == "-" {
			if _, err := e.Streams.Out.Write(b.Bytes()); err != nil {
				return err
			}
		} else {
			if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
				return fault.Failed(err, "choose another place with -f", "write the archive")
			}
			fmt.Fprintln(e.Streams.Out, path)
		}
		e.say("%d files, %s", len(index.Files), output.Bytes(int64(b.Len())))
		for _, m := range index.Missing {
			e.say("missing: %s: %s", m.What, m.Why)
		}
		if len(index.Missing) > 0 {
			return fault.ErrProblems
		}
		return nil
	}
	return cmd
}

// reports renders what the plugin itself would say.
func (e *Env) reports(ctx context.Context, s *bundle.Source) {
	rctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	f := e.facts(rctx, s.Link, s.Cluster)
	for name, v := range map[string]output.Value{"status": report.BuildStatus(f), "why": report.BuildWhy(report.WhyFacts{Facts: f, Object: status.Object{Kind: status.KindCluster}})} {
		for _, format := range []string{"wide", "json"} {
			var b bytes.Buffer
			p, err := output.Parse(format)
			if err == nil {
				err = p.Print(&b, v, false)
			}
			if err == nil {
				s.Reports[name+map[string]string{"wide": ".txt", "json": ".json"}[format]] = b.Bytes()
			}
		}
	}
}
