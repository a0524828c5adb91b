package command

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/iomesh/iomesh/kubectl-iomesh/link"
	"github.com/iomesh/iomesh/kubectl-iomesh/output"
	"github.com/iomesh/iomesh/kubectl-iomesh/report"
)

// versions is what `version` prints.
type versions struct {
	output.Meta
	Client     string            `json:"client"`
	Kubernetes string            `json:"kubernetes,omitempty"`
	Images     map[string]string `json:"images"` // component to the images that run
	Skew       string            `json:"skew,omitempty"`
	Unread     []report.Unread   `json:"unread,omitempty"`
}

// Names implements output.Value.
func (v *versions) Names() []string { return []string{"version/" + v.Client} }

// Table implements output.Value.
func (v *versions) Table(p *output.Page, _ bool) {
	p.Line("Client      %s", v.Client)
	if v.Kubernetes != "" {
		p.Line("Kubernetes  %s", v.Kubernetes)
	}
	for _, c := range []string{"controller", link.ComponentMeta, link.ComponentChunk, link.ComponentNode, link.ComponentAttach} {
		if v.Images[c] != "" {
			p.Line("%-10s  %s", c, v.Images[c])
		}
	}
	if v.Skew != "" {
		p.Line("%s", p.Styled(v.Skew, output.Warn))
	}
	for _, u := range v.Unread {
		p.Line("Could not read %s: %s", u.What, u.Why)
	}
}

func (e *Env) versionCommand() *cobra.Command {
	var client bool
	cmd := &cobra.Command{
		Use: "version", Short: "Show the versions of this plugin and of what runs in the cluster", Args: noArgs,
	}
	cmd.Flags().BoolVar(&client, "client", false, "only the plugin; asks no cluster")
	show := e.printer(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		v := &versions{Meta: output.Of("Version"), Client: clientVersion(), Images: map[string]string{}}
		if !client {
			ctx, cancel := context.WithTimeout(cmd.Context(), 15*time.Second)
			defer cancel()
			e.readVersions(ctx, v)
		}
		return show(v)
	}
	return cmd
}

func (e *Env) readVersions(ctx context.Context, v *versions) {
	unread := func(what string, err error) { v.Unread = append(v.Unread, report.Unread{What: what, Why: err.Error()}) }
	l, server, err := e.connect(ctx)
	if err != nil {
		unread("the cluster", err)
		return
	}
	v.Kubernetes = server
	if _, err := l.Cluster(ctx); err != nil {
		unread("IOMesh", err)
		return
	}
	pods, err := l.Pods(ctx, "")
	if err != nil {
		unread("pods", err)
		return
	}
	seen := map[string][]string{}
	for i := range pods {
		c, image := link.Component(&pods[i]), link.Image(&pods[i])
		if !slices.Contains(seen[c], image) {
			seen[c] = append(seen[c], image)
		}
	}
	for c, images := range seen {
		slices.Sort(images)
		v.Images[c] = strings.Join(images, ", ")
	}
	v.Skew = skew(seen)
}

// skew explains why several images run at once; "" if they do not. Images are by component; those of "" do not count.
func skew(images map[string][]string) string {
	var updated, all []string
	for c, of := range images {
		if c == "" {
			continue
		}
		all = append(all, of...)
		if c != link.ComponentAttach {
			updated = append(updated, of...)
		}
	}
	one := func(of []string) bool { slices.Sort(of); return len(slices.Compact(of)) <= 1 }
	switch {
	case one(all):
		return ""
	case one(updated):
		return "Attach pods of another image carry the volumes of running pods, which an update does not interrupt. They work together with the rest; to update one, " +
			"drain its node (kubectl drain) and delete the pod"
	}
	return "Several images run at once: an update is under way, or has stopped. See: kubectl iomesh status"
}
