package release

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	chartloader "helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/cli/values"
	"helm.sh/helm/v4/pkg/getter"
	"helm.sh/helm/v4/pkg/kube"
	"helm.sh/helm/v4/pkg/release/common"
	helmrelease "helm.sh/helm/v4/pkg/release/v1"
	"helm.sh/helm/v4/pkg/storage/driver"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"sigs.k8s.io/yaml"

	"github.com/iomesh/iomesh/kubectl-iomesh/fault"
)

// NameDefault of the release.
const NameDefault = "iomesh"

// DryRun says whether anything is changed.
type DryRun string

// Kinds of dry run.
const (
	DryRunNone   DryRun = "none"
	DryRunClient DryRun = "client" // renders here; reaches no cluster
	DryRunServer DryRun = "server" // lets the API server judge, and changes nothing
)

// active reports whether nothing is to be changed. The zero value is DryRunNone.
func (d DryRun) active() bool { return d == DryRunClient || d == DryRunServer }

// ParseDryRun reads the flag --dry-run.
func ParseDryRun(s string) (DryRun, error) {
	switch d := DryRun(s); d {
	case DryRunNone, DryRunClient, DryRunServer:
		return d, nil
	}
	return "", fault.Usage("--dry-run=%s: use none, client or server", s)
}

// Load reads a chart from its directory.
func Load(dir fs.FS) (*chart.Chart, error) {
	var list []*archive.BufferedFile
	err := fs.WalkDir(dir, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(dir, path)
		if err != nil {
			return err
		}
		list = append(list, &archive.BufferedFile{Name: path, Data: data})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the embedded chart: %w", err)
	}
	c, err := chartloader.LoadFiles(list)
	if err != nil {
		return nil, fmt.Errorf("load the embedded chart: %w", err)
	}
	return c, nil
}

// Values merges values files and --set flags, as helm does.
func Values(files, sets []string) (map[string]any, error) {
	o := values.Options{ValueFiles: files, Values: sets}
	v, err := o.MergeValues(getter.Providers{})
	if err != nil {
		return nil, fault.Failed(err, "", "read the values")
	}
	return v, nil
}

// Helm works on one release.
type Helm struct {
	Name, Namespace string
	Say             func(string)                // told what is waited for; may be nil
	Pause           func(context.Context) error // between two looks at another run's hold; nil: holdPause
	run             string                      // id of this run
	config          *action.Configuration
	chart           *chart.Chart
}

// New prepares. The getter's namespace must be the release's.
func New(getter genericclioptions.RESTClientGetter, namespace, name string, c *chart.Chart, log slog.Handler) (*Helm, error) {
	config := action.NewConfiguration(action.ConfigurationSetLogger(log))
	if err := config.Init(getter, namespace, ""); err != nil {
		return nil, fmt.Errorf("prepare helm: %w", err)
	}
	return &Helm{Name: name, Namespace: namespace, run: newRun(), config: config, chart: c}, nil
}

// ChartVersion is the version of the embedded chart.
func (h *Helm) ChartVersion() string { return h.chart.Metadata.Version }

// Current returns the last revision of the release, nil when there is none.
func (h *Helm) Current() (*helmrelease.Release, error) {
	all, err := h.history()
	if len(all) == 0 {
		return nil, err
	}
	return all[0], nil
}

// history returns all revisions of the release that are kept, the last one first.
func (h *Helm) history() ([]*helmrelease.Release, error) {
	list, err := h.config.Releases.History(h.Name)
	if errors.Is(err, driver.ErrReleaseNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.API(err, "look for the Helm release %s in namespace %s", h.Name, h.Namespace)
	}
	var out []*helmrelease.Release
	for _, r := range list {
		rel, ok := r.(*helmrelease.Release)
		if !ok || rel.Info == nil {
			return nil, fmt.Errorf("helm release %s has an unknown format (%T); use a newer plugin", h.Name, r)
		}
		out = append(out, rel)
	}
	slices.SortFunc(out, func(a, b *helmrelease.Release) int { return b.Version - a.Version })
	return out, nil
}

// Settle makes sure that no other run of the plugin works on the release, and removes what a killed one has left of its lock.
func (h *Helm) Settle(ctx context.Context) error {
	return h.hold(ctx, func(context.Context) error { return nil })
}

// Change is what to install or upgrade to.
type Change struct {
	// Values are all values, given those of now (nil where there are none). It is called while no other run of the plugin changes them.
	Values  func(now map[string]any) map[string]any
	DryRun  DryRun
	Timeout time.Duration
	labels  map[string]string // of the revision
}

func strategy(d DryRun) action.DryRunStrategy {
	if !d.active() {
		return action.DryRunNone
	}
	return action.DryRunStrategy(d)
}

// Install makes the release and its namespace. It does not wait for its pods. An installation that was interrupted is finished.
func (h *Helm) Install(ctx context.Context, c Change) (rel *helmrelease.Release, err error) {
	i := action.NewInstall(h.config)
	i.ReleaseName, i.Namespace, i.CreateNamespace, i.Timeout = h.Name, h.Namespace, true, c.Timeout
	i.DryRunStrategy, i.HideSecret = strategy(c.DryRun), c.DryRun.active()
	i.WaitStrategy = kube.HookOnlyStrategy
	i.IncludeCRDs = c.DryRun.active()
	i.Labels = map[string]string{labelRun: h.run}
	if c.DryRun.active() {
		return h.result(i.RunWithContext(ctx, h.chart, c.Values(nil)))
	}
	err = h.hold(ctx, func(ctx context.Context) error {
		all, err := h.settled()
		if err != nil {
			return err
		}
		if installed(all) {
			return fault.Failed(nil, "look at it with: kubectl iomesh status", "another run has installed the Helm release %s in the meantime", h.Name)
		}
		i.Replace = len(all) > 0
		rel, err = h.result(i.RunWithContext(ctx, h.chart, c.Values(nil)))
		return err
	})
	return rel, err
}

// installed reports whether a release is there that was once installed to its end and not removed since; of its whole history.
func installed(all []*helmrelease.Release) bool {
	return len(all) > 0 && all[0].Info.Status != common.StatusUninstalled && slices.ContainsFunc(all, whole)
}

// whole reports whether a revision was applied to its end.
func whole(r *helmrelease.Release) bool {
	return r.Info.Status == common.StatusDeployed || r.Info.Status == common.StatusSuperseded || r.Info.Status == common.StatusUninstalling
}

// Installed returns the last revision of a release whose installation is finished, nil when there is none.
func (h *Helm) Installed() (*helmrelease.Release, error) {
	all, err := h.history()
	if err != nil || !installed(all) {
		return nil, err
	}
	return all[0], nil
}

// Upgrade changes the release to the embedded chart. An upgrade that was interrupted is given up for it.
func (h *Helm) Upgrade(ctx context.Context, c Change) (rel *helmrelease.Release, err error) {
	if c.DryRun.active() {
		all, err := h.history()
		if err != nil {
			return nil, err
		}
		return h.upgrade(ctx, all, c)
	}
	err = h.hold(ctx, func(ctx context.Context) error {
		all, err := h.settled()
		if err != nil {
			return err
		}
		rel, err = h.upgrade(ctx, all, c)
		return err
	})
	return rel, err
}

// upgrade is Upgrade under the hold.
func (h *Helm) upgrade(ctx context.Context, all []*helmrelease.Release, c Change) (*helmrelease.Release, error) {
	if len(all) == 0 {
		return nil, fault.Failed(nil, "install it with: kubectl iomesh install", "there is no Helm release %s in namespace %s", h.Name, h.Namespace)
	}
	if s := all[0].Info.Status; s == common.StatusUninstalling || s == common.StatusUninstalled {
		return nil, fault.Failed(nil, "finish that with: kubectl iomesh uninstall", "the Helm release %s in namespace %s is %s", h.Name, h.Namespace, s)
	}
	next := &helmrelease.Release{Chart: h.chart, Config: c.Values(all[0].Config)}
	u := action.NewUpgrade(h.config)
	u.Namespace, u.Timeout, u.MaxHistory = h.Namespace, c.Timeout, 10
	u.DryRunStrategy, u.HideSecret = strategy(c.DryRun), c.DryRun.active()
	u.ServerSideApply, u.ResetValues = "auto", true
	u.WaitStrategy = kube.HookOnlyStrategy
	const none = "null" // for Helm: take the label of the revision before away
	u.Labels = map[string]string{labelRun: h.run}
	if program(next) != program(all[0]) {
		u.Labels[labelRollback] = none
	}
	maps.Copy(u.Labels, c.labels)
	return h.result(u.RunWithContext(ctx, h.Name, h.chart, next.Config))
}

// Rollback returns the release to the chart and images of the last revision that had others than now, and says which revision that was. The other
// values stay as they are: a device map that was made since must not be undone. A release that has been rolled back, or was being rolled back when the
// run that did it was killed, is brought to the same revision again.
func (h *Helm) Rollback(ctx context.Context, timeout time.Duration) (revision int, err error) {
	err = h.hold(ctx, func(ctx context.Context) error {
		all, err := h.settled()
		if err != nil {
			return err
		}
		before, done := rollbackTo(all)
		if before == nil {
			return fault.Failed(nil, "install the earlier version with its own plugin: kubectl iomesh upgrade", "the Helm release %s has no revision of another version to go back to", h.Name)
		}
		revision = before.Version
		if done {
			return nil
		}
		old := *h
		if before.Chart != nil {
			old.chart = before.Chart
		}
		_, err = old.upgrade(ctx, all, Change{Timeout: timeout, labels: map[string]string{labelRollback: strconv.Itoa(revision)},
			Values: func(now map[string]any) map[string]any {
				values := Merge(nil, now)
				for _, key := range imageKeys {
					delete(values, key)
					if v, ok := before.Config[key]; ok {
						values[key] = v
					}
				}
				return values
			}})
		return err
	})
	return revision, err
}

// rollbackTo chooses the revision to go back to, nil when there is none, of all revisions, the last one first; done when the release is back there.
func rollbackTo(all []*helmrelease.Release) (to *helmrelease.Release, done bool) {
	if len(all) == 0 {
		return nil, false
	}
	cur := all[0]
	for _, r := range all[1:] {
		if to := cur.Labels[labelRollback]; to != "" && to == strconv.Itoa(r.Version) && program(r) == program(cur) {
			return r, cur.Info.Status == common.StatusDeployed
		}
	}
	for _, r := range all[1:] {
		if whole(r) && program(r) != program(cur) {
			return r, false
		}
	}
	return nil, false
}

// imageKeys are the values that say which programs run.
var imageKeys = []string{"image", "sidecars"}

// program is what a revision runs: chart and images.
func program(r *helmrelease.Release) string {
	s := ""
	if r.Chart != nil && r.Chart.Metadata != nil {
		s = r.Chart.Metadata.Version + " " + r.Chart.Metadata.AppVersion
	}
	for _, key := range imageKeys {
		s += fmt.Sprintf(" %v", r.Config[key])
	}
	return s
}

func (h *Helm) result(r any, err error) (*helmrelease.Release, error) {
	if err != nil {
		return nil, err
	}
	rel, ok := r.(*helmrelease.Release)
	if !ok {
		return nil, fmt.Errorf("helm answered with an unknown format (%T)", r)
	}
	return rel, nil
}

// Uninstall does what is to be done before, and then removes the release, both while no other run of the plugin works on it. What is done before takes
// the place of the chart's hook, which refuses while volumes exist and removes the cluster. A release that is not there is no error, nor are kinds
// that the cluster does not know any more.
func (h *Helm) Uninstall(ctx context.Context, timeout time.Duration, before func(ctx context.Context) error) error {
	return h.hold(ctx, func(ctx context.Context) error {
		if err := before(ctx); err != nil {
			return err
		}
		if err := h.forgetUnknown(); err != nil {
			return err
		}
		u := action.NewUninstall(h.config)
		u.IgnoreNotFound, u.Timeout, u.DisableHooks = true, timeout, true
		u.WaitStrategy = kube.StatusWatcherStrategy
		_, err := u.Run(h.Name)
		return err
	})
}

// forgetUnknown takes objects of kinds that are not known any more out of the last revision's record: Helm removes nothing when there is one.
func (h *Helm) forgetUnknown() error {
	all, err := h.history()
	if len(all) == 0 {
		return err
	}
	mapper, err := h.config.RESTClientGetter.ToRESTMapper()
	if err != nil {
		return err
	}
	var known []string
	documents := strings.Split(all[0].Manifest, "\n---")
	for _, doc := range documents {
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(doc), &kind); err == nil && kind.Kind != "" {
			gvk := kind.GroupVersionKind()
			if _, err := mapper.RESTMapping(gvk.GroupKind(), gvk.Version); meta.IsNoMatchError(err) {
				continue
			}
		}
		known = append(known, doc)
	}
	if len(known) == len(documents) {
		return nil
	}
	all[0].Manifest = strings.Join(known, "\n---")
	if err := h.config.Releases.Update(all[0]); err != nil {
		return fault.API(err, "take kinds that are gone out of the Helm release %s", h.Name)
	}
	return nil
}

// Manifests is everything that an install or upgrade applies, as YAML documents.
func Manifests(r *helmrelease.Release) string {
	var b strings.Builder
	b.WriteString(strings.TrimSpace(r.Manifest))
	b.WriteString("\n")
	for _, h := range r.Hooks {
		for _, e := range h.Events {
			// Hooks of an uninstall are not applied now.
			if e == helmrelease.HookPreInstall || e == helmrelease.HookPostInstall || e == helmrelease.HookPreUpgrade || e == helmrelease.HookPostUpgrade {
				fmt.Fprintf(&b, "---\n# Source: %s (hook: %s)\n%s\n", h.Path, e, strings.TrimSpace(h.Manifest))
				break
			}
		}
	}
	return b.String()
}
