package command

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/kubectl-iomesh/diskmap"
	"github.com/iomesh/iomesh/kubectl-iomesh/fault"
	"github.com/iomesh/iomesh/kubectl-iomesh/link"
	"github.com/iomesh/iomesh/kubectl-iomesh/output"
	"github.com/iomesh/iomesh/kubectl-iomesh/release"
	"github.com/iomesh/iomesh/kubectl-iomesh/tui"
)

// fieldManager of what the plugin applies itself.
const fieldManager = "kubectl-iomesh"

// riskRelease must be accepted where a plan takes disks out of the cluster.
const riskRelease = "release-disks"

type mapOptions struct {
	choice     diskmap.Choice
	mountType  string
	dryRun     release.DryRun
	dryRunText string
	confirm    string
	risks      []string
	wait       bool
	timeout    time.Duration
}

func (e *Env) diskMapCommand() *cobra.Command {
	var o mapOptions
	cmd := &cobra.Command{
		Use: "map", Short: "Choose which disks the cluster uses, and as what", Args: noArgs,
		Long: "Choose which disks the cluster uses, and as what.\n\n" +
			"The plan is shown first: disks with identity and size, why others are not taken, and what the pool becomes. It is applied after\n" +
			"confirmation, and refused if a disk has changed meanwhile. Only blank, eligible disks are taken.\n\n" +
			"--selector becomes a live selector: a later disk that matches is taken at once. --device and --all-eligible label the chosen disks\n" +
			"and select by that label, so that nothing is taken later. Without any of them, disks are chosen on the screen.\n\n" +
			"A cluster that Argo CD or Flux manages is not edited; the values to commit there are printed instead.",
		Example: "  kubectl iomesh disk map\n  kubectl iomesh disk map --mount-type dataStoreWithJournal --all-eligible\n" +
			"  kubectl iomesh disk map --mount-type dataStoreWithJournal --selector iomesh.com/bd-driverType=SSD --confirm iomesh --wait\n" +
			"  kubectl iomesh disk map --device worker-1:/dev/sdb --device worker-2:/dev/sdb --dry-run=client",
	}
	f := cmd.Flags()
	f.StringVar(&o.mountType, "mount-type", string(v1alpha1.DataStoreWithJournal), "dataStoreWithJournal (all flash), or cacheWithJournal and dataStore (hybrid)")
	f.StringVar(&o.choice.Selector, "selector", "", "live label selector, such as iomesh.com/bd-driverType=SSD")
	f.StringArrayVar(&o.choice.Devices, "device", nil, "a disk by name, or NODE:PATH; may be given several times")
	f.BoolVar(&o.choice.AllEligible, "all-eligible", false, "all disks that are eligible now")
	f.StringVar(&o.dryRunText, "dry-run", "none", "none, client or server: print what would be applied")
	f.StringVar(&o.confirm, "confirm", "", "name of the cluster: confirms the plan without asking")
	f.StringArrayVar(&o.risks, "accept-risk", nil, riskRelease+": accept that disks in use are drained and released")
	f.BoolVar(&o.wait, "wait", false, "wait until the disks are in use")
	f.DurationVar(&o.timeout, "timeout", 5*time.Minute, "how long to wait")
	show := e.printer(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var err error
		if o.dryRun, err = release.ParseDryRun(o.dryRunText); err != nil {
			return err
		}
		o.choice.MountType = v1alpha1.MountType(o.mountType)
		interactive := o.choice.Selector == "" && len(o.choice.Devices) == 0 && !o.choice.AllEligible
		if interactive && (!isTerminal(e.Streams.In) || !isTerminal(e.Streams.Out)) {
			return fault.Usage("choosing disks by keys needs a terminal; without one use --selector, --device or --all-eligible")
		}
		ctx := cmd.Context()
		l, _, err := e.connect(ctx)
		if err != nil {
			return err
		}
		if interactive {
			if err := e.chooseDisks(ctx, l, &o); err != nil || len(o.choice.Devices) == 0 {
				return err
			}
		}
		return e.mapDisks(ctx, l, o, show)
	}
	return cmd
}

// chooseDisks lets the user choose on the screen; no choice means that the user left.
func (e *Env) chooseDisks(ctx context.Context, l *link.Link, o *mapOptions) error {
	c, err := l.Cluster(ctx)
	if err != nil {
		return err
	}
	m := tui.NewDiskMap(ctx, c, l.ListDevices, e.Now)
	if _, err := tea.NewProgram(m, tea.WithContext(ctx), tea.WithInput(e.Streams.In), tea.WithOutput(e.Streams.Out)).Run(); err != nil {
		return fault.Failed(err, "use --selector, --device or --all-eligible", "draw on this terminal")
	}
	if r := m.Result(); r.Done {
		o.choice = r.Choice
		e.say("The same as: %s", m.CommandLine())
		return nil
	}
	e.say("Nothing was changed.")
	return nil
}

func (e *Env) mapDisks(ctx context.Context, l *link.Link, o mapOptions, show func(output.Value) error) error {
	c, err := l.Cluster(ctx)
	if err != nil {
		return err
	}
	devices, err := l.ListDevices(ctx)
	if err != nil {
		return err
	}
	plan, err := diskmap.Make(c, devices, o.choice)
	if err != nil {
		return fault.Usage("%v", err)
	}
	if o.dryRun != release.DryRunNone {
		return e.dryMap(ctx, l, c, plan, o.dryRun)
	}
	if len(plan.Takes) == 0 && len(plan.Releases) == 0 && !plan.Live {
		if plan.Keeps > 0 {
			e.say("Nothing to do: the chosen disks are in use already.")
			return nil
		}
		return fault.Failed(nil, "see all: kubectl iomesh disk list", "no eligible disk: %s", whyNone(plan))
	}
	if len(plan.Releases) > 0 && !slices.Contains(o.risks, riskRelease) {
		if err := show(plan); err != nil {
			return err
		}
		return fault.Failed(nil, "if that is wanted, add --accept-risk="+riskRelease, "the plan takes %d disks in use out of the cluster", len(plan.Releases))
	}
	if err := e.carryOut(ctx, l, c, plan, c.Name, o.confirm, fmt.Sprintf("Map %d disks of cluster %s?", len(plan.Takes), c.Name), show); err != nil {
		return err
	}
	e.say("Device map of cluster %s applied.", c.Name)
	if !o.wait {
		e.say("Follow it with: kubectl iomesh disk list")
		return nil
	}
	return e.waitMapped(ctx, l, plan, o.timeout)
}

// whyNone says in one line why a choice takes nothing.
func whyNone(p *diskmap.Plan) string {
	if len(p.Excluded) == 0 {
		return "the agents have published no disks"
	}
	var parts []string
	for i, x := range p.Excluded {
		if i == 3 {
			parts = append(parts, fmt.Sprintf("and %d more", len(p.Excluded)-i))
			break
		}
		parts = append(parts, fmt.Sprintf("%s on %s %s", x.Path, x.Node, strings.Join(x.Reasons, ", ")))
	}
	return strings.Join(parts, "; ")
}

// manager is who keeps an object.
type manager struct {
	gitops string // name of the tool, "" when none
	helm   string // name of the release, "" when none
}

func managedBy(c *v1alpha1.IOMeshCluster) manager {
	m := manager{helm: c.Annotations["meta.helm.sh/release-name"]}
	switch {
	case c.Labels["argocd.argoproj.io/instance"] != "" || c.Annotations["argocd.argoproj.io/tracking-id"] != "":
		m.gitops = "Argo CD"
	case c.Labels["helm.toolkit.fluxcd.io/name"] != "" || c.Labels["kustomize.toolkit.fluxcd.io/name"] != "":
		m.gitops = "Flux"
	}
	return m
}

// plainMap is the device map as it stands in YAML.
func plainMap(p *diskmap.Plan) map[string]any {
	b, err := json.Marshal(p.DeviceMap)
	out := map[string]any{}
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err != nil {
		panic(fmt.Sprintf("a device map does not survive JSON: %v", err)) // made of strings by us
	}
	return out
}

// mapValues are the chart's values of a plan.
func mapValues(p *diskmap.Plan) map[string]any {
	v := release.Put(nil, valueDeviceMap, plainMap(p))
	return release.Put(v, valueDiskMode, string(p.Mode))
}

// mapPatch is the change of an IOMeshCluster that no tool manages.
func mapPatch(p *diskmap.Plan) map[string]any {
	return map[string]any{"spec": map[string]any{"diskDeploymentMode": string(p.Mode), "chunk": map[string]any{"deviceMap": plainMap(p)}}}
}

// applyMap labels the chosen disks and then changes the map: until the map changes, labels have no effect.
func (e *Env) applyMap(ctx context.Context, l *link.Link, c *v1alpha1.IOMeshCluster, p *diskmap.Plan) error {
	if err := labelDisks(ctx, l, p, nil); err != nil {
		return err
	}
	if name := managedBy(c).helm; name != "" {
		h, err := e.helm(l, name)
		if err != nil {
			return err
		}
		rel, err := h.Current()
		if err != nil {
			return err
		}
		if rel == nil {
			return fault.Failed(nil, "remove its Helm annotations, or install the release again", "cluster %s says that the Helm release %s manages it, and there is none", c.Name, name)
		}
		values := func(now map[string]any) map[string]any {
			return release.Put(release.Replace(now, valueDeviceMap, plainMap(p)), valueDiskMode, string(p.Mode))
		}
		if _, err := h.Upgrade(ctx, release.Change{Values: values, Timeout: time.Minute}); err != nil {
			return fault.Failed(err, "", "set the device map in the values of the Helm release %s", name)
		}
		return nil
	}
	return patchCluster(ctx, l, c.Name, mapPatch(p), nil)
}

// marksOf are the labels and annotations that a plan gives to a disk that it takes.
func marksOf(p *diskmap.Plan, t diskmap.Taken) map[string]any {
	marks := map[string]any{}
	if t.Label {
		marks["labels"] = map[string]any{diskmap.LabelMap: string(p.MountType)}
	}
	if t.Replaces != "" {
		marks["annotations"] = map[string]any{diskmap.AnnotationReplaces: t.Replaces}
	}
	return marks
}

func labelDisks(ctx context.Context, l *link.Link, p *diskmap.Plan, dryRun []string) error {
	for _, t := range p.Takes {
		marks := marksOf(p, t)
		if len(marks) == 0 {
			continue
		}
		if err := mergePatch(ctx, l.Devices(), t.Name, map[string]any{"metadata": marks}, dryRun); err != nil {
			return fault.API(err, "label disk %s (%s on %s)", t.Name, t.Path, t.Node)
		}
	}
	return nil
}

func patchCluster(ctx context.Context, l *link.Link, name string, patch map[string]any, dryRun []string) error {
	if err := mergePatch(ctx, l.Clusters(), name, patch, dryRun); err != nil {
		return fault.API(err, "set the device map of cluster %s", name)
	}
	return nil
}

// dryMap prints what applyMap would apply; server lets the API server judge it first.
func (e *Env) dryMap(ctx context.Context, l *link.Link, c *v1alpha1.IOMeshCluster, p *diskmap.Plan, d release.DryRun) error {
	if d == release.DryRunServer {
		all := []string{metav1.DryRunAll}
		if err := labelDisks(ctx, l, p, all); err != nil {
			return err
		}
		if err := patchCluster(ctx, l, c.Name, mapPatch(p), all); err != nil {
			return err
		}
	}
	object := func(kind, name string) map[string]any {
		return map[string]any{"apiVersion": v1alpha1.GroupVersion.String(), "kind": kind, "metadata": map[string]any{"name": name, "namespace": l.Namespace}}
	}
	var docs []map[string]any
	for _, t := range p.Takes {
		if marks := marksOf(p, t); len(marks) > 0 {
			o := object("BlockDevice", t.Name)
			maps.Copy(o["metadata"].(map[string]any), marks)
			docs = append(docs, o)
		}
	}
	o := object("IOMeshCluster", c.Name)
	for k, v := range mapPatch(p) {
		o[k] = v
	}
	docs = append(docs, o)
	for i, doc := range docs {
		b, err := yaml.Marshal(doc)
		if err != nil {
			return err
		}
		if i > 0 {
			fmt.Fprintln(e.Streams.Out, "---")
		}
		fmt.Fprint(e.Streams.Out, string(b))
	}
	if name := managedBy(c).helm; name != "" {
		e.say("The cluster is changed through the values of the Helm release %s.", name)
	}
	return nil
}

// waitMapped waits until the taken disks are in use.
func (e *Env) waitMapped(ctx context.Context, l *link.Link, p *diskmap.Plan, timeout time.Duration) error {
	return e.await(ctx, timeout, func(ctx context.Context) (string, bool, error) {
		devices, err := l.ListDevices(ctx)
		if err != nil {
			return "", false, err
		}
		active, waiting := 0, ""
		for _, t := range p.Takes {
			for i := range devices {
				d := &devices[i]
				if d.Name != t.Name {
					continue
				}
				switch {
				case d.Status.ClaimState == v1alpha1.Claimed && d.Status.DiskID != "":
					active++
				case waiting != "":
				case d.Spec.Claim == nil:
					waiting = fmt.Sprintf("disk %s (%s on %s) is not claimed by the operator yet", d.Name, d.Spec.Path, d.Spec.Node)
				case d.Status.Message != "":
					waiting = fmt.Sprintf("disk %s (%s on %s): %s", d.Name, d.Spec.Path, d.Spec.Node, d.Status.Message)
				case d.Status.ClaimState == v1alpha1.Claimed:
					waiting = fmt.Sprintf("disk %s (%s on %s) is not taken up by its chunk yet", d.Name, d.Spec.Path, d.Spec.Node)
				default:
					waiting = fmt.Sprintf("disk %s (%s on %s) is being prepared by its agent", d.Name, d.Spec.Path, d.Spec.Node)
				}
			}
		}
		text := fmt.Sprintf("%d of %d disks in use", active, len(p.Takes))
		if waiting != "" {
			text += "; " + waiting
		}
		return text, active == len(p.Takes), nil
	})
}
