package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	health "github.com/iomesh/iomesh/internal/status"
)

type whyView struct {
	head
	Object   health.Object `json:"object"`
	State    string        `json:"state"`
	NextStep string        `json:"nextStep,omitempty"`
	AsOf     *time.Time    `json:"asOf,omitempty"`
	Causes   []findingView `json:"causes"`
	Chain    []health.Step `json:"chain"`
}

func (v *whyView) table(w io.Writer) {
	pairs(w, "Object", v.Object.String(), "State", v.State, "Next step", v.NextStep, "As of", timeText(v.AsOf))
	if len(v.Causes) > 0 {
		fmt.Fprintln(w, "\nCauses, most likely first")
		for i, c := range v.Causes {
			stale := ""
			if c.Stale {
				stale = " (stale)"
			}
			fmt.Fprintf(w, "%d. %s, %s: %s%s\n", i+1, c.Code, c.State, c.Reason, stale)
			for _, e := range c.Evidence {
				fmt.Fprintf(w, "     %s\n", e)
			}
			if c.NextStep != "" {
				fmt.Fprintf(w, "   → %s\n", c.NextStep)
			}
		}
	}
	if len(v.Chain) > 0 {
		fmt.Fprintln(w, "\nStands on")
		for _, s := range v.Chain {
			fmt.Fprintf(w, "  %s: %s\n", s.Object, s.Says)
			for _, e := range s.Evidence {
				fmt.Fprintf(w, "     %s\n", e)
			}
		}
	}
}

// component is a process whose /healthz is asked.
type component struct{ name, node, url string }

// parseComponent reads NAME[@NODE]=URL.
func parseComponent(s string) (component, error) {
	who, url, ok := strings.Cut(s, "=")
	if !ok || who == "" || !strings.HasPrefix(url, "http://") {
		return component{}, usage("--component %q: want NAME[@NODE]=http://HOST:PORT/healthz", s)
	}
	name, node, _ := strings.Cut(who, "@")
	return component{name, node, url}, nil
}

// probeTime bounds the question to one component.
const probeTime = 2 * time.Second

// probe asks all components at once.
func probe(ctx context.Context, list []component) []health.Component {
	out := make([]health.Component, len(list))
	var wg sync.WaitGroup
	for i, c := range list {
		out[i] = health.Component{Name: c.name, Node: c.node}
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, probeTime)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url, nil)
			if err == nil {
				var resp *http.Response
				if resp, err = http.DefaultClient.Do(req); err == nil {
					_ = resp.Body.Close()
					if resp.StatusCode != http.StatusOK {
						err = errors.New(resp.Status)
					}
				}
			}
			if out[i].Up = err == nil; err != nil {
				out[i].Message = err.Error()
			}
		})
	}
	wg.Wait()
	return out
}

// members asks each metadata member itself, for when no leader answers.
func (c *client) members(ctx context.Context) []health.Member {
	out := make([]health.Member, len(c.conns))
	var wg sync.WaitGroup
	for i, cc := range c.conns {
		out[i] = health.Member{Name: c.addresses[i], Address: c.addresses[i]}
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, probeTime)
			defer cancel()
			p, err := storagedv1.NewMetaPeerClient(cc).Probe(ctx, &storagedv1.ProbeRequest{})
			switch {
			case err != nil:
				out[i].Message = "does not answer"
			case p.GetLeaderId() == 0:
				out[i].Name, out[i].Message = p.GetName(), strings.TrimSpace("sees no leader "+p.GetMessage())
			default:
				out[i].Name, out[i].Healthy = p.GetName(), true
			}
		})
	}
	wg.Wait()
	return out
}

// leaderTime is how long the leader's answer is waited for before it counts as silent.
const leaderTime = 5 * time.Second

func (a *app) whyCommand() *cobra.Command {
	var components []string
	cmd := &cobra.Command{
		Use:   "why [volume/NAME | node/NAME | disk/NAME | meta/NAME | cluster]",
		Short: "Explain the state of an object: what it stands on, and the most likely cause first",
		Long: `Explain the state of an object: what it stands on, and the most likely cause first.

A disk is named by its id, by NODE/NAME, or by its name if only one disk has it. Exit code 3 if something is wrong.`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage("%s: %d arguments given, want at most one object", c.CommandPath(), len(args))
			}
			return nil
		},
	}
	cmd.Flags().StringArrayVar(&components, "component", nil, "NAME[@NODE]=http://HOST:PORT/healthz of a redirector or another process to ask too; may be repeated")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o := health.Object{Kind: health.KindCluster}
		if len(args) == 1 {
			var err error
			if o, err = health.ParseObject(args[0]); err != nil {
				return usage("%v", err)
			}
			if o.Kind == health.KindPod || o.Kind == health.KindPVC {
				return usage("%s: the block service knows nothing of Kubernetes; use: kubectl iomesh why %s", o, o)
			}
		}
		var ask []component
		for _, s := range components {
			c, err := parseComponent(s)
			if err != nil {
				return err
			}
			ask = append(ask, c)
		}
		cl, err := a.connect()
		if err != nil {
			return err
		}
		defer cl.close()
		ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
		defer cancel()
		view, err := cl.why(ctx, o, ask)
		if err != nil {
			return err
		}
		if err := a.print(cmd.OutOrStdout(), view, view.table); err != nil {
			return err
		}
		if view.State != health.OK.Word() {
			return &Error{code: exitProblems, msg: fmt.Sprintf("%s is %s", view.Object, view.State)}
		}
		return nil
	}
	return cmd
}

func (c *client) why(ctx context.Context, o health.Object, ask []component) (*whyView, error) {
	c.choose(ctx)
	actx, cancel := context.WithTimeout(ctx, leaderTime)
	defer cancel()
	var g health.Graph
	now := time.Now()
	st, err := storagedv1.NewClusterClient(c).GetStatus(actx, &storagedv1.GetStatusRequest{})
	facts := health.FromStatus(st, "", now, now)
	if err != nil {
		facts = health.FromStatus(nil, err.Error(), time.Time{}, now)
		facts.Meta = c.members(ctx)
	}
	facts.Components = probe(ctx, ask)
	g.AddCluster(st)
	g.Add(health.Object{Kind: health.KindCluster}, "the whole", nil)
	for _, x := range ask {
		g.Add(health.Object{Kind: health.KindComponent, Name: x.name}, "at "+x.url, nil)
		g.Add(health.Object{Kind: health.KindNode, Name: x.node}, "", nil, health.Object{Kind: health.KindComponent, Name: x.name})
	}
	switch {
	case st == nil:
		g.Add(o, "not known: no metadata leader answers", nil)
	case o.Kind == health.KindDisk:
		d, ok := health.DiskNamed(st, o.Name)
		if !ok {
			return nil, &Error{code: exitFailed, msg: fmt.Sprintf("no disk, or more than one, is named %s; see: storaged ctl disk list", o.Name)}
		}
		o = d
	case o.Kind == health.KindVolume:
		v, err := c.volume(actx, o.Name)
		if err != nil {
			return nil, explain("explain "+o.String(), c.addresses, err)
		}
		o.Name = v.GetName()
		g.AddVolume(v, st)
		if f, bad := health.FindingOf(v); bad {
			facts.Given = append(facts.Given, f)
		}
	case !g.Has(o):
		return nil, &Error{code: exitFailed, msg: fmt.Sprintf("there is no %s; known: %s", o, strings.Join(g.Names(o.Kind), ", "))}
	}
	x := health.Why(&g, health.Evaluate(facts), o)
	view := &whyView{head: kind("Explanation"), Object: x.Object, State: x.State.Word(), NextStep: x.Next(), Causes: viewFindings(x.Causes), Chain: x.Chain}
	if !facts.Read.IsZero() {
		view.AsOf = &facts.Read
	}
	return view, nil
}

// volume finds a volume by id or name, with its extents.
func (c *client) volume(ctx context.Context, name string) (*storagedv1.Volume, error) {
	vc := storagedv1.NewVolumesClient(c)
	if v, err := vc.GetVolume(ctx, &storagedv1.GetVolumeRequest{Name: name, Extents: true}); err == nil {
		return v, nil
	}
	return vc.GetVolume(ctx, &storagedv1.GetVolumeRequest{Id: name, Extents: true})
}
