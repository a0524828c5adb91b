package command

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"helm.sh/helm/v4/pkg/release/common"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"

	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/kubectl-iomesh/diskmap"
	"github.com/iomesh/iomesh/kubectl-iomesh/fault"
	"github.com/iomesh/iomesh/kubectl-iomesh/link"
	"github.com/iomesh/iomesh/kubectl-iomesh/release"
	"github.com/iomesh/iomesh/manifests"
)

// Paths in the chart's values that flags set.
const (
	valueRepository = "image.repository"
	valueTag        = "image.tag"
	valueDigest     = "image.digest"
	valueDataCIDR   = "iomesh.chunk.dataCIDR"
	valueDeviceMap  = "iomesh.chunk.deviceMap"
	valueDiskMode   = "iomesh.diskDeploymentMode"
)

// valueFlags are what install and upgrade have in common.
type valueFlags struct {
	files, sets []string
	image       string
	dataCIDR    string
	disks       string
	dryRun      string
	wait        bool
	timeout     time.Duration
	name        string
}

func (v *valueFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVarP(&v.files, "values", "f", nil, "values file of the chart; may be given several times")
	f.StringArrayVar(&v.sets, "set", nil, "one value: key=value; may be given several times")
	f.StringVar(&v.image, "image", "", "image with all programs of IOMesh: REPOSITORY[:TAG][@DIGEST]")
	f.StringVar(&v.dataCIDR, "data-cidr", "", "storage network, such as 10.234.1.0/24")
	f.StringVar(&v.dryRun, "dry-run", "none", "none, client or server: print what would be applied")
	f.BoolVar(&v.wait, "wait", false, "wait until everything runs")
	f.DurationVar(&v.timeout, "timeout", 5*time.Minute, "how long to wait")
	f.StringVar(&v.name, "release", release.NameDefault, "name of the Helm release")
}

// values merges files, --set and the flags, in this order.
func (v *valueFlags) values() (map[string]any, error) {
	out, err := release.Values(v.files, v.sets)
	if err != nil {
		return nil, err
	}
	if v.image != "" {
		repository, tag, digest := splitImage(v.image)
		out = release.Put(out, valueRepository, repository)
		out = release.Put(out, valueTag, tag)
		out = release.Put(out, valueDigest, digest)
	}
	if v.dataCIDR != "" {
		out = release.Put(out, valueDataCIDR, v.dataCIDR)
	}
	if v.disks != "" {
		sel, err := metav1.ParseToLabelSelector(v.disks)
		if err != nil {
			return nil, fault.Usage("--disks %q: %v", v.disks, err)
		}
		plan := &diskmap.Plan{Mode: v1alpha1.AllFlash, DeviceMap: map[v1alpha1.MountType]v1alpha1.DeviceSelection{v1alpha1.DataStoreWithJournal: {Selector: *sel}}}
		out = release.Merge(out, mapValues(plan))
	}
	return out, nil
}

// splitImage takes a reference apart. A colon before the last slash belongs to the registry's port.
func splitImage(ref string) (repository, tag, digest string) {
	ref, digest, _ = strings.Cut(ref, "@")
	if i := strings.LastIndex(ref, ":"); i > strings.LastIndex(ref, "/") {
		return ref[:i], ref[i+1:], digest
	}
	return ref, "", digest
}

func (e *Env) installCommand() *cobra.Command {
	var v valueFlags
	cmd := &cobra.Command{
		Use: "install", Short: "Install IOMesh into the cluster", Args: noArgs,
		Long: "Install IOMesh into the cluster, as an ordinary Helm release of the chart that this plugin contains.\n\n" +
			"The namespace (" + link.NamespaceDefault + " unless -n says otherwise) is created. No disk is used before it is mapped: by --disks, or\n" +
			"afterwards with: kubectl iomesh disk map.",
		Example: "  kubectl iomesh install --wait\n  kubectl iomesh install --data-cidr 10.234.1.0/24 --disks iomesh.com/bd-driverType=SSD --wait\n" +
			"  kubectl iomesh install -f values.yaml --dry-run=client",
	}
	v.add(cmd)
	cmd.Flags().StringVar(&v.disks, "disks", "", "live label selector of the disks to use as dataStoreWithJournal, such as iomesh.com/bd-driverType=SSD")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		dry, err := release.ParseDryRun(v.dryRun)
		if err != nil {
			return err
		}
		values, err := v.values()
		if err != nil {
			return err
		}
		l, err := e.Open()
		if err != nil && dry != release.DryRunClient {
			return err
		}
		if dry == release.DryRunClient {
			// Rendered here: a cluster, and even a kubeconfig, need not exist.
			return e.dryInstall(ctx, e.namespace(), v, values, dry)
		}
		if _, err := l.Reach(ctx); err != nil {
			return err
		}
		if dry == release.DryRunServer {
			return e.dryInstall(ctx, l.Namespace, v, values, dry)
		}
		h, err := e.helm(l, v.name)
		if err != nil {
			return err
		}
		done, err := installed(h, values)
		if err != nil {
			return err
		}
		if done {
			if err := h.Settle(ctx); err != nil {
				return err
			}
			e.say("IOMesh %s is installed already in namespace %s with the values given (Helm release %s); nothing is changed", h.ChartVersion(), l.Namespace, v.name)
		} else {
			e.say("Installing IOMesh %s into namespace %s (Helm release %s)", h.ChartVersion(), l.Namespace, v.name)
			if _, err := h.Install(ctx, release.Change{Values: only(values), Timeout: v.timeout}); err != nil {
				return fault.Failed(err, "see: helm status -n "+l.Namespace+" "+v.name, "install IOMesh into namespace %s", l.Namespace)
			}
		}
		if !v.wait {
			e.say("Installed. Follow it with: kubectl iomesh status")
			return nil
		}
		return e.waitReady(ctx, l, v.timeout)
	}
	return cmd
}

// namespace is the one to use where no connection is made.
func (e *Env) namespace() string {
	if e.Flags.Namespace != nil && *e.Flags.Namespace != "" {
		return *e.Flags.Namespace
	}
	return link.NamespaceDefault
}

func (e *Env) dryInstall(ctx context.Context, namespace string, v valueFlags, values map[string]any, dry release.DryRun) error {
	h, err := e.helmIn(namespace, v.name)
	if err != nil {
		return err
	}
	rel, err := h.Install(ctx, release.Change{Values: only(values), DryRun: dry, Timeout: v.timeout})
	if err != nil {
		return fault.Failed(err, "", "render the chart")
	}
	fmt.Fprint(e.Streams.Out, release.Manifests(rel))
	return nil
}

// installed reports whether the release is as an installation with these values would make it, so that a command that was interrupted may be given again.
// Any other release is refused.
func installed(h *release.Helm, values map[string]any) (bool, error) {
	rel, err := h.Installed()
	if rel == nil {
		return false, err
	}
	if rel.Info.Status == common.StatusDeployed && rel.Chart.Metadata.Version == h.ChartVersion() && sameValues(rel.Config, values) {
		return true, nil
	}
	return false, fault.Failed(nil, "to change it: kubectl iomesh upgrade; to remove it: kubectl iomesh uninstall",
		"IOMesh is installed already: Helm release %s in namespace %s (chart %s, %s)", h.Name, h.Namespace, rel.Chart.Metadata.Version, rel.Info.Status)
}

// sameValues compares as JSON: a release's values have been through it, which makes all numbers alike.
func sameValues(a, b map[string]any) bool {
	if len(a) == 0 && len(b) == 0 {
		return true
	}
	one, err := json.Marshal(a)
	if err != nil {
		return false
	}
	other, err := json.Marshal(b)
	return err == nil && bytes.Equal(one, other)
}

// only are values that do not depend on those of now.
func only(values map[string]any) func(map[string]any) map[string]any {
	return func(map[string]any) map[string]any { return values }
}

// helm returns the release in the link's namespace.
func (e *Env) helm(l *link.Link, name string) (*release.Helm, error) {
	return e.helmIn(l.Namespace, name)
}

func (e *Env) helmIn(namespace, name string) (*release.Helm, error) {
	chart, err := release.Load(manifests.Chart())
	if err != nil {
		return nil, err
	}
	h, err := release.New(flagsIn(e.Flags, namespace), namespace, name, chart, e.log())
	if err != nil {
		return nil, err
	}
	h.Say, h.Pause = func(line string) { e.say("%s", line) }, e.holdPause
	return h, nil
}

// flagsIn are the same flags with another namespace: helm takes the namespace from them, and they remember what they answered first.
func flagsIn(f *genericclioptions.ConfigFlags, namespace string) *genericclioptions.ConfigFlags {
	out := genericclioptions.NewConfigFlags(true)
	out.Namespace = &namespace
	out.KubeConfig, out.CacheDir, out.Context, out.ClusterName, out.AuthInfoName = f.KubeConfig, f.CacheDir, f.Context, f.ClusterName, f.AuthInfoName
	out.CertFile, out.KeyFile, out.CAFile, out.Insecure, out.TLSServerName = f.CertFile, f.KeyFile, f.CAFile, f.Insecure, f.TLSServerName
	out.BearerToken, out.Username, out.Password = f.BearerToken, f.Username, f.Password
	out.Impersonate, out.ImpersonateUID, out.ImpersonateGroup = f.Impersonate, f.ImpersonateUID, f.ImpersonateGroup
	out.ImpersonateUserExtra, out.ProxyURL = f.ImpersonateUserExtra, f.ProxyURL
	out.APIServer, out.Timeout, out.DisableCompression = f.APIServer, f.Timeout, f.DisableCompression
	return out
}

// waitReady waits until volumes can be created; or, where no disk is mapped, until everything runs that can.
func (e *Env) waitReady(ctx context.Context, l *link.Link, timeout time.Duration) error {
	mapped := true
	err := e.await(ctx, timeout, func(ctx context.Context) (string, bool, error) {
		c, err := l.Cluster(ctx)
		if err != nil {
			return "", false, err
		}
		ready, progress := condition(c, v1alpha1.ConditionReady), condition(c, v1alpha1.ConditionProgressing)
		pods, err := l.Pods(ctx, "")
		if err != nil {
			return "", false, err
		}
		count, trouble := 0, ""
		slices.SortFunc(pods, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
		for i := range pods {
			t := link.Trouble(&pods[i])
			switch {
			case t == "":
				count++
			case trouble == "":
				trouble = "pod " + pods[i].Name + " " + t
			}
		}
		text := fmt.Sprintf("%d of %d pods ready", count, len(pods))
		for _, more := range []string{progress.Message, trouble} {
			if more != "" && !(more == progress.Message && progress.Status != metav1.ConditionTrue) {
				text += "; " + more
			}
		}
		current := c.Status.ObservedGeneration == c.Generation
		switch {
		case current && ready.Status == metav1.ConditionTrue && progress.Status == metav1.ConditionFalse && trouble == "":
			return text + "; " + ready.Message, true, nil
		case current && ready.Reason == "NoDeviceMap" && progress.Status == metav1.ConditionFalse && trouble == "":
			mapped = false
			return text, true, nil
		}
		return text, false, nil
	})
	if err != nil {
		return err
	}
	if mapped {
		e.say("IOMesh is ready.")
	} else {
		e.say("IOMesh runs. No disk is mapped yet; choose disks with: kubectl iomesh disk map")
	}
	return nil
}

func condition(c *v1alpha1.IOMeshCluster, kind string) metav1.Condition {
	for _, x := range c.Status.Conditions {
		if x.Type == kind {
			return x
		}
	}
	return metav1.Condition{}
}
