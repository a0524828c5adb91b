package release

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"strings"
	"time"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	chartloader "helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/cli/values"
	"helm.sh/helm/v4/pkg/getter"
	"helm.sh/helm/v4/pkg/kube"
	helmrelease "helm.sh/helm/v4/pkg/release/v1"
	"helm.sh/helm/v4/pkg/storage/driver"
	"k8s.io/cli-runtime/pkg/genericclioptions"

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
	config          *action.Configuration
	chart           *chart.Chart
}

// New prepares. The getter's namespace must be the release's. Hook output (the refusal of an uninstall) goes to hooks.
func New(getter genericclioptions.RESTClientGetter, namespace, name string, c *chart.Chart, log slog.Handler, hooks io.Writer) (*Helm, error) {
	config := action.NewConfiguration(action.ConfigurationSetLogger(log))
	if err := config.Init(getter, namespace, ""); err != nil {
		return nil, fmt.Errorf("prepare helm: %w", err)
	}
	if hooks != nil {
		config.SetHookOutputFunc(func(_, _, _ string) io.Writer { return hooks })
	}
	return &Helm{Name: name, Namespace: namespace, config: config, chart: c}, nil
}

// ChartVersion is the version of the embedded chart.
func (h *Helm) ChartVersion() string { return h.chart.Metadata.Version }

// Current returns the last revision of the release, nil when there is none.
func (h *Helm) Current() (*helmrelease.Release, error) {
	r, err := h.config.Releases.Last(h.Name)
	if errors.Is(err, driver.ErrReleaseNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fault.API(err, "look for the Helm release %s in namespace %s", h.Name, h.Namespace)
	}
	rel, ok := r.(*helmrelease.Release)
	if !ok {
		return nil, fmt.Errorf("helm release %s has an unknown format (%T); use a newer plugin", h.Name, r)
	}
	return rel, nil
}

// Change is what to install or upgrade to.
type Change struct {
	Values          map[string]any
	CreateNamespace bool
	DryRun          DryRun
	Timeout         time.Duration
}

func strategy(d DryRun) action.DryRunStrategy {
	if !d.active() {
		return action.DryRunNone
	}
	return action.DryRunStrategy(d)
}

// Install makes the release. It does not wait for its pods.
func (h *Helm) Install(ctx context.Context, c Change) (*helmrelease.Release, error) {
	i := action.NewInstall(h.config)
	i.ReleaseName, i.Namespace, i.CreateNamespace, i.Timeout = h.Name, h.Namespace, c.CreateNamespace, c.Timeout
	i.DryRunStrategy, i.HideSecret = strategy(c.DryRun), c.DryRun.active()
	i.WaitStrategy = kube.HookOnlyStrategy
	i.IncludeCRDs = c.DryRun.active()
	return h.result(i.RunWithContext(ctx, h.chart, c.Values))
}

// Upgrade changes the release to the embedded chart. The values are the whole ones; see CurrentValues.
func (h *Helm) Upgrade(ctx context.Context, c Change) (*helmrelease.Release, error) {
	u := action.NewUpgrade(h.config)
	u.Namespace, u.Timeout, u.MaxHistory = h.Namespace, c.Timeout, 10
	u.DryRunStrategy, u.HideSecret = strategy(c.DryRun), c.DryRun.active()
	u.ServerSideApply, u.ResetValues = "auto", true
	u.WaitStrategy = kube.HookOnlyStrategy
	return h.result(u.RunWithContext(ctx, h.Name, h.chart, c.Values))
}

// Rollback returns the release to the chart and images of the last revision that had others than now, and says which revision that was. The other
// values stay as they are: a device map that was made since must not be undone.
func (h *Helm) Rollback(ctx context.Context, timeout time.Duration) (revision int, err error) {
	cur, err := h.Current()
	if err != nil {
		return 0, err
	}
	list, err := h.config.Releases.History(h.Name)
	if err != nil {
		return 0, fault.API(err, "read the history of the Helm release %s", h.Name)
	}
	var before *helmrelease.Release
	for _, r := range list {
		rel, ok := r.(*helmrelease.Release)
		if ok && cur != nil && rel.Version < cur.Version && (before == nil || rel.Version > before.Version) && program(rel) != program(cur) {
			before = rel
		}
	}
	if before == nil {
		return 0, fault.Failed(nil, "install the earlier version with its own plugin: kubectl iomesh upgrade", "the Helm release %s has no revision of another version to go back to", h.Name)
	}
	values := Merge(nil, cur.Config)
	for _, key := range imageKeys {
		delete(values, key)
		if v, ok := before.Config[key]; ok {
			values[key] = v
		}
	}
	old := *h
	if before.Chart != nil {
		old.chart = before.Chart
	}
	_, err = old.Upgrade(ctx, Change{Values: values, Timeout: timeout})
	return before.Version, err
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

// Uninstall removes the release, running its hooks. A release that is not there is no error.
func (h *Helm) Uninstall(timeout time.Duration) error {
	u := action.NewUninstall(h.config)
	u.IgnoreNotFound, u.Timeout = true, timeout
	u.WaitStrategy = kube.StatusWatcherStrategy
	_, err := u.Run(h.Name)
	return err
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
