package diskmap

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/iomesh/iomesh/kubectl-iomesh/output"
)

// Names implements output.Value.
func (p *Plan) Names() []string {
	var out []string
	for _, t := range p.Takes {
		out = append(out, "blockdevice.iomesh.com/"+t.Name)
	}
	return out
}

// Table implements output.Value.
func (p *Plan) Table(page *output.Page, wide bool) {
	page.Line("Plan for cluster %s in namespace %s", p.Cluster, p.Namespace)
	page.Line("")
	if len(p.Takes) > 0 {
		page.Line("%s", page.Styled(fmt.Sprintf("Takes %s as %s:", output.Count(len(p.Takes), "disk"), p.MountType), output.Good))
		drawDisks(page, p.Takes)
	} else {
		page.Line("Takes no further disk.")
	}
	if p.Keeps > 0 {
		page.Line("")
		page.Line("Keeps %s.", output.Count(p.Keeps, "disk"))
	}
	if len(p.Releases) > 0 {
		page.Line("")
		page.Line("%s", page.Styled(fmt.Sprintf("Drains and releases %s that would no longer be selected:", output.Count(len(p.Releases), "disk")), output.Bad))
		drawDisks(page, p.Releases)
	}
	if len(p.Excluded) > 0 {
		page.Line("")
		page.Line("Not taken:")
		var rows [][]output.Cell
		for _, x := range p.Excluded {
			reason := strings.Join(x.Reasons, "; ")
			if !wide && len(x.Reasons) > 2 {
				reason = fmt.Sprintf("%s; and %d more (-o wide)", strings.Join(x.Reasons[:2], "; "), len(x.Reasons)-2)
			}
			rows = append(rows, []output.Cell{output.C("  " + x.Node), output.C(x.Path), output.C(reason)})
		}
		page.Table([]string{"  NODE", "PATH", "WHY"}, rows)
	}
	page.Line("")
	page.Table([]string{"POOL", "DISKS", "RAW", "USABLE 2x", "USABLE 3x", "AFTER LOSS OF A NODE 2x"}, [][]output.Cell{
		poolRow("now", p.Before), poolRow("planned", p.After),
	})
	if wide {
		for _, n := range slices.Sorted(maps.Keys(p.After.ByNodeBytes)) {
			page.Line("  %s  %s", n, output.Bytes(p.After.ByNodeBytes[n]))
		}
	}
	page.Line("")
	if p.ModeChanges {
		page.Line("diskDeploymentMode: %s", p.Mode)
	}
	page.Line("deviceMap:")
	for _, mt := range slices.Sorted(maps.Keys(p.DeviceMap)) {
		s := p.DeviceMap[mt]
		text := metav1.FormatLabelSelector(&s.Selector)
		if len(s.Exclude) > 0 {
			text += "  exclude " + strings.Join(s.Exclude, ", ")
		}
		page.Line("  %s: %s", mt, text)
	}
	if p.Live {
		page.Line("The selector is live: a disk that appears later and matches is taken at once.")
	}
}

func poolRow(name string, p Pool) []output.Cell {
	return []output.Cell{output.C(name), output.C(p.Disks), output.C(output.Bytes(p.RawBytes)), output.C(output.Bytes(p.Usable2Bytes)), output.C(output.Bytes(p.Usable3Bytes)), output.C(output.Bytes(p.HeadroomBytes))}
}

func drawDisks(page *output.Page, disks []Taken) {
	var rows [][]output.Cell
	for _, t := range disks {
		rows = append(rows, []output.Cell{output.C("  " + t.Node), output.C(t.Path), output.C(output.Bytes(t.SizeBytes)), output.C(output.Or(t.DriveType)),
			output.C(output.Or(t.Model)), output.C(output.Or(t.Serial)), output.C(t.Name)})
	}
	page.Table([]string{"  NODE", "PATH", "SIZE", "TYPE", "MODEL", "SERIAL", "NAME"}, rows)
}
