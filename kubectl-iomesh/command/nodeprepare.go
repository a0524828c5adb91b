package command

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "github.com/iomesh/iomesh/api/agent/v1"
	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/kubectl-iomesh/fault"
	"github.com/iomesh/iomesh/kubectl-iomesh/link"
	"github.com/iomesh/iomesh/kubectl-iomesh/output"
	"github.com/iomesh/iomesh/kubectl-iomesh/report"
)

// preparing is what the flags of node prepare say.
type preparing struct {
	nodes          []string // nil: all
	undo, dry, yes bool
	timeout        time.Duration
}

func (e *Env) nodePrepareCommand() *cobra.Command {
	var p preparing
	var all bool
	cmd := &cobra.Command{
		Use: "prepare NODE… | --all", Short: "Give nodes what the kernel's iSCSI initiator needs, or take that back",
		Long: "Give nodes what the kernel's iSCSI initiator needs: the module iscsi_tcp, now and at each start; iscsid, enabled and running; and where\n" +
			"multipathd runs, a blacklist that keeps it from taking volumes. No package is installed: one that is missing is named.\n\n" +
			"The plan is shown first, with each file and command, and carried out after confirmation, if the machines are still as it says. Each node\n" +
			"records what it was like before; --undo restores exactly that, and leaves alone and reports what somebody else has changed since. Interrupted, the\n" +
			"same command finishes. Exit code 3 when something is lacking that cannot be made good from here, or was left alone.",
		Example: "  kubectl iomesh node prepare --all --dry-run\n  kubectl iomesh node prepare worker-1 worker-2 --yes\n  kubectl iomesh node prepare worker-2 --undo",
		Args: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return fault.Usage("%s needs the names of nodes, or --all", cmd.CommandPath())
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVar(&all, "all", false, "all nodes on which an agent runs")
	f.BoolVar(&p.undo, "undo", false, "restore what the nodes were like before")
	f.BoolVar(&p.dry, "dry-run", false, "only show the plan")
	f.BoolVarP(&p.yes, "yes", "y", false, "confirms the plan without asking")
	f.DurationVar(&p.timeout, "timeout", 5*time.Minute, "how long one node may take")
	show := e.printer(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		p.nodes = slices.Compact(slices.Sorted(slices.Values(args)))
		return e.withCluster(cmd.Context(), func(ctx context.Context, l *link.Link, c *v1alpha1.IOMeshCluster) error {
			return e.prepareNodes(ctx, l, c, p, show)
		})
	}
	return cmd
}

// prepareNodes plans on all nodes, has the whole confirmed, and carries out what is needed where it is.
func (e *Env) prepareNodes(ctx context.Context, l *link.Link, c *v1alpha1.IOMeshCluster, p preparing, show func(output.Value) error) error {
	e.say("Looking at the nodes")
	plan, err := e.askToPrepare(ctx, l, p, nil)
	if err != nil {
		return err
	}
	needed := plan.plans()
	if p.dry || len(needed) == 0 {
		if err := show(plan); err != nil {
			return err
		}
		if !p.dry && len(plan.Unread) == 0 {
			e.say("Nothing to change.")
		}
		return plan.verdict(!p.dry)
	}
	// The result, which is printed last, holds all that the plan does: only one of them may be on standard output.
	page := output.NewPage(isTerminal(e.Streams.ErrOut) && e.colored())
	plan.Table(page, false)
	fmt.Fprint(e.Streams.ErrOut, page.String())
	name, question := c.Name, fmt.Sprintf("Prepare %s of cluster %s?", output.Count(len(needed), "node"), c.Name)
	if len(needed) == 1 {
		for n := range needed {
			name, question = n, "Prepare node "+n+"?"
		}
	}
	if p.undo {
		question = "Undo: p" + strings.TrimPrefix(question, "P")
	}
	if !p.yes {
		if !isTerminal(e.Streams.In) || !isTerminal(e.Streams.ErrOut) {
			return fault.Usage("this needs confirmation, and there is no terminal to ask on: add --yes")
		}
		if err := e.confirmed(name, "", question); err != nil {
			return err
		}
	}
	done, err := e.askToPrepare(ctx, l, preparing{nodes: slices.Sorted(maps.Keys(needed)), undo: p.undo, timeout: p.timeout}, needed)
	if err != nil {
		return err
	}
	result := plan.with(done)
	if err := show(result); err != nil {
		return err
	}
	return result.verdict(true)
}

// askToPrepare asks the agents for plans, or to carry out those given by node.
func (e *Env) askToPrepare(ctx context.Context, l *link.Link, p preparing, plans map[string]string) (*nodePreparation, error) {
	out := &nodePreparation{Meta: output.Of("NodePreparation"), Undo: p.undo, Nodes: []preparedNode{}, Unread: []report.Unread{}}
	var mu sync.Mutex
	ask := func(ctx context.Context, a *link.Agent) error {
		resp, err := a.Prepare(ctx, &agentv1.PrepareRequest{Undo: p.undo, Plan: plans[a.Node]})
		if err != nil {
			return err
		}
		n := preparedNodeOf(a.Node, resp)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case plans == nil:
		case n.has("failed", "needed", "unknown"):
			e.say("  node %s: not finished", a.Node)
		default:
			e.say("  node %s: done", a.Node)
		}
		out.Nodes = append(out.Nodes, n)
		return nil
	}
	var failed map[string]error
	var err error
	if len(p.nodes) == 0 {
		failed, err = l.EachAgent(ctx, p.timeout, ask)
	} else {
		failed, err = l.AgentsOf(ctx, p.nodes, p.timeout, ask)
	}
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if len(failed)+len(out.Nodes) == 0 {
		return nil, fault.Failed(nil, "see: kubectl get pods -n "+l.Namespace, "no agent runs in namespace %s", l.Namespace)
	}
	for _, n := range slices.Sorted(maps.Keys(failed)) {
		out.Unread = append(out.Unread, report.Unread{What: "node " + n, Why: sayPrepare(failed[n])})
	}
	slices.SortFunc(out.Nodes, func(a, b preparedNode) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// sayPrepare is an agent's error without the wrapping of the protocol.
func sayPrepare(err error) string {
	switch s := status.Convert(err); s.Code() {
	case codes.Unimplemented:
		return "its agent is too old for this; see: kubectl iomesh upgrade"
	case codes.FailedPrecondition, codes.Aborted, codes.Internal:
		return s.Message()
	}
	return err.Error()
}
