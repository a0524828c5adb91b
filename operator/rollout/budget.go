package rollout

import (
	"fmt"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
)

// MinAvailable is how many of the chunk pods an eviction must leave, with the reason: all but one while one may stop, all
// of them otherwise.
func MinAvailable(st *storagedv1.ClusterStatus, chunks int, updating string) (int32, string) {
	all, one := int32(chunks), int32(max(chunks-1, 0))
	switch {
	case st == nil:
		return all, "the metadata members do not answer, so redundancy is not known"
	case st.GetVolumes() == 0:
		return one, "there are no volumes"
	case chunks == 1:
		return all, fmt.Sprintf("this is the only chunk, and it holds %d volumes", st.GetVolumes())
	case updating != "":
		return all, fmt.Sprintf("the chunk of node %s is being updated", updating)
	}
	for _, n := range st.GetNodes() {
		if n.GetMode() == "maintenance" && n.GetState() == "Online" {
			// The administrator is about to take this node down: that one eviction is expected.
			if reason := Blocked(st, n.GetName()); reason == "" {
				return one, fmt.Sprintf("node %s is in maintenance mode and may go; every volume has all its replicas", n.GetName())
			}
		}
	}
	if reason := Blocked(st, ""); reason != "" {
		return all, reason
	}
	return one, "every volume has all its replicas"
}
