package command

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"

	agentv1 "github.com/iomesh/iomesh/api/agent/v1"
	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/kubectl-iomesh/fault"
	"github.com/iomesh/iomesh/kubectl-iomesh/link"
	"github.com/iomesh/iomesh/kubectl-iomesh/report"
)

func (e *Env) checkCommand() *cobra.Command {
	var timeout time.Duration
	var disks []string
	var volume bool
	var replicas int
	cmd := &cobra.Command{
		Use: "check", Short: "Examine the nodes: kernel, initiator, clock, network, ports, disks", Args: noArgs,
		Long: "Examine the nodes through their agents: kernel, initiator, clock, network, ports, disks. Nothing is changed. Every check has its\n" +
			"evidence and its fix. Exit code 3 when one failed or a node could not be asked.\n\n" +
			"With --volume a scratch volume is made and used as well: log in by iSCSI, write, read back, go on writing while another node becomes its\n" +
			"owner, compare all replicas, delete it.",
		Example: "  kubectl iomesh check\n  kubectl iomesh check -o wide\n  kubectl iomesh check --measure-disk bd-0f3a…",
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 2*time.Minute, "how long one node may take")
	cmd.Flags().StringArrayVar(&disks, "measure-disk", nil, "name of a disk whose flush latency to measure; nothing is written to it")
	cmd.Flags().BoolVar(&volume, "volume", false, "use a scratch volume too: write, read back, move its owner meanwhile")
	cmd.Flags().IntVar(&replicas, "replicas", 2, "of the scratch volume")
	show := e.printer(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		l, serverVersion, err := e.connect(ctx)
		if err != nil {
			return err
		}
		c, err := l.Cluster(ctx)
		if err != nil {
			return err
		}
		r, err := e.examine(ctx, l, c, serverVersion, disks, timeout)
		if err != nil {
			return err
		}
		if volume {
			e.say("Using a scratch volume")
			if err := e.tryVolume(ctx, l, replicas, r); err != nil {
				return err
			}
		}
		if err := show(r); err != nil {
			return err
		}
		if r.Failed() {
			return fault.ErrProblems
		}
		return nil
	}
	return cmd
}

func (e *Env) examine(ctx context.Context, l *link.Link, c *v1alpha1.IOMeshCluster, serverVersion string, disks []string, timeout time.Duration) (*report.CheckReport, error) {
	onNode, err := e.disksByNode(ctx, l, disks)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var answers []report.Answer
	e.say("Examining the nodes")
	failed, err := l.EachAgent(ctx, timeout, func(ctx context.Context, a *link.Agent) error {
		// The connection is made by the first call: its time must not count as an uncertainty of the clock.
		if _, err := a.GetInfo(ctx, &agentv1.GetInfoRequest{}); err != nil {
			return err
		}
		resp, err := a.Check(ctx, &agentv1.CheckRequest{DataCidr: c.Spec.Chunk.DataCIDR, FlushDevices: onNode[a.Node]})
		if err != nil {
			return err
		}
		asked := e.Now()
		info, err := a.GetInfo(ctx, &agentv1.GetInfoRequest{})
		if err != nil {
			return err
		}
		resp.Now = info.Now
		mu.Lock()
		defer mu.Unlock()
		answers = append(answers, report.Answer{Response: resp, Asked: asked, Answered: e.Now()})
		return nil
	})
	if err != nil {
		return nil, err
	}
	var unread []report.Unread
	for node, err := range failed {
		unread = append(unread, report.Unread{What: "node " + node, Why: err.Error()})
	}
	if len(answers) == 0 && len(failed) == 0 {
		unread = append(unread, report.Unread{What: "nodes", Why: "no agent runs: the DaemonSet iomesh-node has no pods"})
	}
	return report.BuildCheck(answers, e.clusterFindings(ctx, l, c, serverVersion), unread), nil
}

// tryVolume uses a scratch volume; each step is a line of progress and a finding.
func (e *Env) tryVolume(ctx context.Context, l *link.Link, replicas int, r *report.CheckReport) error {
	if replicas < 1 || replicas > 3 {
		return fault.Usage("--replicas=%d: use 1, 2 or 3", replicas)
	}
	err := l.Selftest(ctx, replicas, func(s link.SelftestStep) {
		f := report.Finding{Scope: "volume", ID: s.Step, Status: "ok", Evidence: fmt.Sprintf("%s (%.1f s)", s.Detail, s.Seconds)}
		if !s.OK {
			f.Status, f.Fix = "failed", "see: kubectl iomesh status"
		}
		e.say("  %-10s  %s", s.Step, f.Evidence)
		r.Findings = append(r.Findings, f)
	})
	if err != nil && ctx.Err() == nil {
		r.Unread = append(r.Unread, report.Unread{What: "the use of a volume", Why: err.Error()})
		err = nil
	}
	r.Sort()
	return err
}

func (e *Env) disksByNode(ctx context.Context, l *link.Link, names []string) (map[string][]string, error) {
	out := map[string][]string{}
	if len(names) == 0 {
		return out, nil
	}
	devices, err := l.ListDevices(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		found := false
		for i := range devices {
			if devices[i].Name == name {
				out[devices[i].Spec.Node], found = append(out[devices[i].Spec.Node], name), true
			}
		}
		if !found {
			return nil, fault.Usage("--measure-disk %s: there is no such disk; names are in: kubectl iomesh disk list -o name", name)
		}
	}
	return out, nil
}

// clusterFindings examines what concerns no single node.
func (e *Env) clusterFindings(ctx context.Context, l *link.Link, c *v1alpha1.IOMeshCluster, serverVersion string) []report.Finding {
	var out []report.Finding
	add := func(id, status, evidence, fix string) {
		out = append(out, report.Finding{Scope: "cluster", ID: id, Status: status, Evidence: evidence, Fix: fix})
	}
	v, err := version.ParseGeneric(serverVersion)
	switch {
	case err != nil:
		add("kubernetes", "unknown", "version "+serverVersion, "")
	case v.LessThan(version.MustParseGeneric("1.30.0")):
		add("kubernetes", "failed", "version "+serverVersion, "use Kubernetes 1.30 or newer")
	default:
		add("kubernetes", "ok", "version "+serverVersion, "")
	}
	nodes, err := l.Core.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	switch {
	case err != nil:
		add("nodes", "unknown", err.Error(), "")
	case len(nodes.Items) < int(c.Spec.Meta.Replicas):
		add("nodes", "failed", fmt.Sprintf("%d nodes for %d metadata members", len(nodes.Items), c.Spec.Meta.Replicas), "add nodes, or install with --set iomesh.meta.replicaCount=1")
	case len(nodes.Items) < 3:
		add("nodes", "warning", fmt.Sprintf("%d nodes", len(nodes.Items)), "with fewer than 3 nodes no loss of a node is survived without a pause")
	default:
		add("nodes", "ok", fmt.Sprintf("%d nodes", len(nodes.Items)), "")
	}
	return out
}
