package diskmap

import (
	"slices"

	"github.com/iomesh/iomesh/api/v1alpha1"
)

type pooling struct {
	disks  int
	byNode map[string]int64
}

func newPool() *pooling { return &pooling{byNode: map[string]int64{}} }

func (p *pooling) add(d *v1alpha1.BlockDevice) {
	p.disks++
	p.byNode[d.Spec.Node] += d.Spec.Identity.SizeBytes
}

func (p *pooling) pool() Pool {
	out := Pool{Disks: p.disks, ByNodeBytes: p.byNode}
	var sizes []int64
	for _, n := range p.byNode {
		out.RawBytes += n
		sizes = append(sizes, n)
	}
	slices.Sort(sizes)
	out.Usable2Bytes, out.Usable3Bytes = usable2(sizes), usable3(sizes)
	if len(sizes) > 0 {
		out.HeadroomBytes = usable2(sizes[:len(sizes)-1])
	}
	return out
}

// usable2 is how much fits twice, each copy on another node: half of all, or what the others can mirror of the largest node. Sizes ascend.
func usable2(sizes []int64) int64 {
	if len(sizes) < 2 {
		return 0
	}
	var sum int64
	for _, n := range sizes {
		sum += n
	}
	return min(sum/2, sum-sizes[len(sizes)-1])
}

// usable3 is the same for three copies: a third of all; or half of the others beside the largest; or what is left beside the two largest.
func usable3(sizes []int64) int64 {
	n := len(sizes)
	if n < 3 {
		return 0
	}
	var sum int64
	for _, s := range sizes {
		sum += s
	}
	return min(sum/3, (sum-sizes[n-1])/2, sum-sizes[n-1]-sizes[n-2])
}
