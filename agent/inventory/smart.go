package inventory

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/iomesh/iomesh/agent/smart"
	"github.com/iomesh/iomesh/api/v1alpha1"
)

// smartStatus is a finding in the words of the object; nil where the disk said nothing.
func smartStatus(f *smart.Finding) *v1alpha1.SmartStatus {
	if f == nil {
		return nil
	}
	at := metav1.NewTime(f.At.UTC())
	return &v1alpha1.SmartStatus{
		Health: v1alpha1.SmartVerdict(f.Verdict.String()), SmartSelfTestStatus: v1alpha1.SmartVerdict(f.SelfTest.String()), LifespanPercentage: f.LifeLeft,
		TemperatureCelsius: f.Temperature, PowerOnHours: f.PowerOnHours, MediaErrors: f.MediaErrors, ReallocatedSectors: f.ReallocatedSectors,
		PendingSectors: f.PendingSectors, Message: f.Reason(), Checked: &at,
	}
}

// judgeSmart draws the conclusions from what a disk says of itself: one that reports its failure is Failing, and is not given to a cluster. One that is
// in use stays in use: whether its replicas are to move away is the administrator's to say.
func judgeSmart(st *v1alpha1.BlockDeviceStatus, said *v1alpha1.SmartStatus) {
	if st.Smart = said; said == nil {
		return
	}
	if said.Health != v1alpha1.SmartFailed && said.SmartSelfTestStatus != v1alpha1.SmartFailed {
		if said.Health == v1alpha1.SmartPassed && st.Health == v1alpha1.DeviceHealthUnknown {
			st.Health = v1alpha1.DeviceHealthy
		}
		return
	}
	st.Health = v1alpha1.DeviceFailing
	if st.Message == "" {
		st.Message = "the disk reports its failure: " + said.Message
	}
	st.Reasons = slices.Insert(st.Reasons, 0, v1alpha1.Reason{Code: v1alpha1.ReasonFailing, Message: said.Message})
	st.Reasons = st.Reasons[:min(len(st.Reasons), reasonsMax)]
	st.Eligible = false
}
