package release

import (
	"fmt"

	"helm.sh/helm/v4/pkg/release/common"
	helmrelease "helm.sh/helm/v4/pkg/release/v1"

	"github.com/iomesh/iomesh/kubectl-iomesh/fault"
)

// Labels of a revision. Helm hands them on from revision to revision, its own included.
const (
	labelRun      = "iomesh.com/run"         // the run of the plugin that made it
	labelRollback = "iomesh.com/rollback-to" // number of the revision to whose chart and images it returns
)

// settled returns the release's history like history, with a last revision on which nobody works: one that a run of the plugin left pending is marked as
// failed. The caller has the hold, so that this run has ended. About one that Helm itself, or another program, has left pending nothing is known.
func (h *Helm) settled() ([]*helmrelease.Release, error) {
	all, err := h.history()
	if len(all) == 0 || err != nil || !all[0].Info.Status.IsPending() {
		return all, err
	}
	last := all[0]
	ours := last.Labels[labelRun] != "" && (len(all) == 1 || all[1].Labels[labelRun] != last.Labels[labelRun])
	if !ours {
		return nil, fault.Failed(nil, "wait until it has ended; if it was killed: helm rollback -n "+h.Namespace+" "+h.Name+", or for an installation: kubectl iomesh uninstall",
			"helm, or a program that uses it, works on the Helm release %s in namespace %s: revision %d is %s since %s",
			h.Name, h.Namespace, last.Version, last.Info.Status, last.Info.LastDeployed.UTC().Format("2006-01-02 15:04:05 UTC"))
	}
	if h.Say != nil {
		h.Say(fmt.Sprintf("Revision %d of the Helm release %s was interrupted (%s); it is begun again", last.Version, h.Name, last.Info.Status))
	}
	last.SetStatus(common.StatusFailed, "interrupted: the run of kubectl iomesh that made it was killed")
	if err := h.config.Releases.Update(last); err != nil {
		return nil, fault.API(err, "mark revision %d of the Helm release %s as failed", last.Version, h.Name)
	}
	return all, nil
}
