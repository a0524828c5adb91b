package meta

import (
	"testing"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
)

func TestASmallVolumeProvisionsItsSizeAndGivesAllOfItBack(t *testing.T) {
	disk := block.DiskID{1}
	extent := func(i block.ExtentIndex, revision int64) metadb.Extent {
		return metadb.Extent{ID: block.ExtentID{Volume: block.VolumeID{1}, Index: i}, Generation: 1, Revision: revision,
			Members: []metadb.Member{{Disk: disk, Chunk: 1}}}
	}
	s := newState()
	v := metadb.Volume{ID: block.VolumeID{1}, Name: "v", Thin: true, SizeBytes: 1<<30 + 256<<20}
	steps := []struct {
		what   string
		update metadb.Update
		want   diskUsage
	}{
		{"extents before their volume", metadb.Update{Put: []metadb.Record{extent(0, 1), extent(1, 1)}}, diskUsage{members: 2, thinBytes: 2 << 30}},
		{"the volume", metadb.Update{Put: []metadb.Record{v}}, diskUsage{members: 2, thinBytes: 1<<30 + 256<<20}},
		{"an extent again", metadb.Update{Put: []metadb.Record{extent(1, 2)}}, diskUsage{members: 2, thinBytes: 1<<30 + 256<<20}},
		{"grown", metadb.Update{Put: []metadb.Record{func() metadb.Volume { w := v; w.SizeBytes = 3 << 30; return w }(), extent(2, 3)}}, diskUsage{members: 3, thinBytes: 3 << 30}},
		{"made thick", metadb.Update{Put: []metadb.Record{metadb.Volume{ID: v.ID, SizeBytes: 3 << 30}}}, diskUsage{members: 3, thickBytes: 3 << 30}},
		{"the volume goes before its extents", metadb.Update{Deleted: []metadb.Record{v, extent(0, 0), extent(1, 0), extent(2, 0)}}, diskUsage{}},
	}
	for _, c := range steps {
		s.apply(c.update)
		if got := s.usage[disk]; got != c.want {
			t.Errorf("%s: %+v, want %+v", c.what, got, c.want)
		}
	}
	if len(s.charges) != 0 {
		t.Errorf("charges of volumes that are gone: %v", s.charges)
	}
}
