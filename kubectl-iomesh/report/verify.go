package report

import (
	"time"

	"github.com/iomesh/iomesh/kubectl-iomesh/link"
	"github.com/iomesh/iomesh/kubectl-iomesh/output"
)

// Verification is what `volume verify` prints.
type Verification struct {
	output.Meta
	link.Verification
	NextStep string `json:"nextStep,omitempty"`
}

// BuildVerification says of a verification what follows from it.
func BuildVerification(v *link.Verification) *Verification {
	out := &Verification{Meta: output.Of("Verification"), Verification: *v}
	switch {
	case v.BlocksLost > 0:
		out.NextStep = "blocks without a good copy read as medium errors until they are written anew: restore them from a backup or a snapshot; see: kubectl iomesh why volume/" + v.Volume
	case v.BlocksBad > 0 || v.ReplicasBehind > 0:
		out.NextStep = "all was repaired; the disk that it was on may be failing, see: kubectl iomesh disk list"
	case v.ExtentsPassed > 0:
		out.NextStep = "not all replicas were there: when the volume has all of them again, verify it once more"
	}
	return out
}

// Problems reports whether something was found.
func (v *Verification) Problems() bool { return v.NextStep != "" }

// Names implements output.Value.
func (v *Verification) Names() []string { return []string{"volume/" + v.Volume} }

// Table implements output.Value.
func (v *Verification) Table(p *output.Page, _ bool) {
	p.Line("Volume:             %s", v.Volume)
	took := ""
	if v.Started != nil && v.Ended != nil {
		took = " in " + v.Ended.Sub(*v.Started).Round(time.Second).String()
	}
	p.Line("State:              %s%s", v.State, took)
	p.Line("Read:               %s on all replicas, %d of %s", output.Bytes(v.BytesRead), v.ExtentsDone, output.Count(v.Extents, "extent"))
	p.Line("Bad blocks:         %d, of which %d repaired and %d without a good copy", v.BlocksBad, v.BlocksRepaired, v.BlocksLost)
	p.Line("Replicas behind:    %d", v.ReplicasBehind)
	if v.ExtentsPassed > 0 {
		p.Line("Not read:           %s, whose replicas are not all there", output.Count(v.ExtentsPassed, "extent"))
	}
	if v.NextStep != "" {
		p.Line("Next step:          %s", v.NextStep)
	}
}
