package eligibility

import "github.com/iomesh/iomesh/agent/blockdev"

// Duplicates maps kernel names to the path of another device of the same scan that reports the same identity: paths of one disk without
// multipath, or bridges and virtual machines that give every disk the same serial number. None of them can be told from the others.
func Duplicates(devices []*blockdev.Device) map[string]string {
	first := map[string]*blockdev.Device{}
	out := map[string]string{}
	for _, d := range devices {
		if !d.Key.Stable() || d.Type == blockdev.MPath {
			continue
		}
		name := d.Name()
		other, seen := first[name]
		if !seen {
			first[name] = d
			continue
		}
		out[d.KernelName] = other.Path
		if _, marked := out[other.KernelName]; !marked {
			out[other.KernelName] = d.Path
		}
	}
	return out
}
