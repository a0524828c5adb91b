package command

import (
	"context"
	"fmt"

	tea "charm.land/bubbletea/v2"
	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/kubectl-iomesh/fault"
	"github.com/iomesh/iomesh/kubectl-iomesh/link"
	"github.com/iomesh/iomesh/kubectl-iomesh/output"
	"github.com/iomesh/iomesh/kubectl-iomesh/report"
	"github.com/iomesh/iomesh/kubectl-iomesh/tui"
)

// upgradeMode are the flags that concern an update under way.
type upgradeMode struct {
	watch, pause, resume, rollback bool
	confirm                        string
}

func (m *upgradeMode) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&m.watch, "watch", false, "only follow the update under way")
	f.BoolVar(&m.pause, "pause", false, "hold the update after the node under way")
	f.BoolVar(&m.resume, "resume", false, "let a held update go on")
	f.BoolVar(&m.rollback, "rollback", false, "return to the chart and images of the Helm revision before")
	f.StringVar(&m.confirm, "confirm", "", "name of the cluster: confirms --rollback without asking")
}

// only reports whether nothing is to be upgraded.
func (m *upgradeMode) only() bool { return m.watch || m.pause || m.resume || m.rollback }

// check refuses flags that contradict each other.
func (m *upgradeMode) check() error {
	n := 0
	for _, set := range []bool{m.watch, m.pause, m.resume, m.rollback} {
		if set {
			n++
		}
	}
	if n > 1 {
		return fault.Usage("--watch, --pause, --resume and --rollback: give one of them")
	}
	return nil
}

// steerUpgrade does what the flags say to an update under way.
func (e *Env) steerUpgrade(ctx context.Context, m upgradeMode, v valueFlags, show func(output.Value) error) error {
	if err := m.check(); err != nil {
		return err
	}
	l, _, err := e.connect(ctx)
	if err != nil {
		return err
	}
	c, err := l.Cluster(ctx)
	if err != nil {
		return err
	}
	var do tui.UpgradeAction
	switch a := e.upgradeActions(l, c, v); {
	case m.pause:
		do = a.Pause
	case m.resume:
		do = a.Resume
	case m.rollback:
		if err := e.confirmed(c.Name, m.confirm, fmt.Sprintf("Return cluster %s to the version before?", c.Name)); err != nil {
			return err
		}
		do = a.Rollback
	}
	if do != nil {
		text, err := do(ctx)
		if err != nil {
			return err
		}
		e.say("%s", text)
		if !v.wait {
			return nil
		}
	}
	if m.watch && !v.wait && !e.onScreen() {
		u, err := e.upgradeState(ctx, l)
		if err != nil {
			return err
		}
		return show(u)
	}
	return e.followUpgrade(ctx, l, v)
}

func (e *Env) onScreen() bool {
	return !e.quiet && isTerminal(e.Streams.In) && isTerminal(e.Streams.Out)
}

// followUpgrade shows the update until everything runs the new version: on a terminal as a screen.
func (e *Env) followUpgrade(ctx context.Context, l *link.Link, v valueFlags) error {
	if !e.onScreen() {
		return e.await(ctx, v.timeout, func(ctx context.Context) (string, bool, error) {
			u, err := e.upgradeState(ctx, l)
			if err != nil {
				return "", false, err
			}
			return u.Line(), u.Complete, nil
		})
	}
	c, err := l.Cluster(ctx)
	if err != nil {
		return err
	}
	m := tui.NewUpgrade(ctx, func(ctx context.Context) (*report.Upgrade, error) { return e.upgradeState(ctx, l) }, e.upgradeActions(l, c, v), e.Now)
	if _, err := tea.NewProgram(m, tea.WithContext(ctx), tea.WithInput(e.Streams.In), tea.WithOutput(e.Streams.Out)).Run(); err != nil {
		return fault.Failed(err, "follow it with: kubectl iomesh status", "draw on this terminal")
	}
	if !m.Done() {
		e.say("The update goes on by itself. Follow it with: kubectl iomesh upgrade --watch")
		return context.Canceled
	}
	return nil
}

// upgradeState reads how far the update is.
func (e *Env) upgradeState(ctx context.Context, l *link.Link) (*report.Upgrade, error) {
	c, err := l.Cluster(ctx)
	if err != nil {
		return nil, err
	}
	pods, err := l.Pods(ctx, "")
	if err != nil {
		return nil, err
	}
	target, err := upgradeTarget(ctx, l, c)
	if err != nil {
		return nil, err
	}
	data, dataErr := l.StorageStatus(ctx)
	return report.BuildUpgrade(c, pods, data, dataErr, target), nil
}

// upgradeTarget is the image that everything shall run: the cluster's, or that of the operator, which gives its own to all.
func upgradeTarget(ctx context.Context, l *link.Link, c *v1alpha1.IOMeshCluster) (string, error) {
	if c.Spec.Image != "" {
		return c.Spec.Image, nil
	}
	list, err := l.Core.AppsV1().Deployments(l.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/part-of=iomesh,app.kubernetes.io/component=controller"})
	if err != nil {
		return "", fault.API(err, "list Deployments in namespace %s", l.Namespace)
	}
	for i := range list.Items {
		for _, x := range list.Items[i].Spec.Template.Spec.Containers {
			if x.Name == "operator" {
				return x.Image, nil
			}
		}
	}
	return c.Status.Image, nil
}

// upgradeActions change an update under way.
func (e *Env) upgradeActions(l *link.Link, c *v1alpha1.IOMeshCluster, v valueFlags) tui.UpgradeActions {
	annotate := func(ctx context.Context, value any) error {
		if err := mergePatch(ctx, l.Clusters(), c.Name, annotationPatch(v1alpha1.AnnotationPauseUpdate, value), nil); err != nil {
			return fault.API(err, "annotate cluster %s", c.Name)
		}
		return nil
	}
	return tui.UpgradeActions{
		Pause: func(ctx context.Context) (string, error) {
			return "The node under way is finished, no other is begun. Go on with: kubectl iomesh upgrade --resume", annotate(ctx, "by kubectl iomesh at "+e.Now().UTC().Format("2006-01-02 15:04 UTC"))
		},
		Resume: func(ctx context.Context) (string, error) {
			return "The update goes on.", annotate(ctx, nil)
		},
		Rollback: func(ctx context.Context) (string, error) {
			h, err := e.helm(l, v.name)
			if err != nil {
				return "", err
			}
			to, err := h.Rollback(ctx, v.timeout)
			if err != nil {
				return "", fault.Failed(err, "see: helm history -n "+l.Namespace+" "+v.name, "roll the Helm release %s back", v.name)
			}
			// A held update would hold the way back as well.
			if err := annotate(ctx, nil); err != nil {
				return "", err
			}
			return fmt.Sprintf("The Helm release %s runs chart and images of its revision %d again; the nodes follow one by one.", v.name, to), nil
		},
	}
}
