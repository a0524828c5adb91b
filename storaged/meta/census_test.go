package meta

import (
	"strings"
	"testing"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
)

// Whatever is older than the replicas in the metadata, the newest replicas serve, or nobody does.
func TestJudgeVolume(t *testing.T) {
	disk := func(n byte) block.DiskID { return block.DiskID{n} }
	full := func(ns ...byte) (out []metadb.Member) {
		for _, n := range ns {
			out = append(out, metadb.Member{Disk: disk(n), Chunk: block.ChunkID(n)})
		}
		return out
	}
	at := func(n byte, gen block.Generation, wm, highest block.Stamp) foundReplica {
		return foundReplica{Disk: disk(n), Chunk: block.ChunkID(n), Generation: gen, Watermark: wm, Highest: highest, Epoch: 7, SnapSeq: 2}
	}
	unfit := func(r foundReplica) foundReplica { r.Unfit = true; return r }
	for _, c := range []struct {
		name               string
		members            []metadb.Member
		absent             []metadb.Absent
		found              []foundReplica
		all, whole, accept bool
		want               string // members and absent of the new set, or the problem
		losses             int
	}{
		{"nothing has changed since the backup", full(1, 2), nil, []foundReplica{at(1, 3, 5, 9), at(2, 3, 5, 9)}, true, true, false, "1 2 |", 0},
		{"a member has left since", full(1, 2), nil, []foundReplica{at(1, 4, 8, 9), at(2, 3, 5, 6)}, true, true, false, "1 | 2@5", 0},
		{"the member that has left since is the recorded first one", full(1, 2), nil, []foundReplica{at(1, 3, 5, 6), at(2, 6, 8, 9)}, true, true, false, "2 | 1@5", 0},
		{"an absent one has returned, another left", full(1, 2), []metadb.Absent{{Disk: disk(3), Chunk: 3}}, []foundReplica{at(1, 4, 8, 9), at(2, 3, 5, 6), at(3, 4, 8, 9)}, true, true, false, "1 3 | 2@5", 0},
		{"one that was being copied to is no member", full(1, 2), nil, []foundReplica{at(1, 3, 5, 9), unfit(at(2, 4, 5, 9))}, true, true, false, "1 | 2@0", 0},
		{"a disk is missing", full(1, 2), nil, []foundReplica{at(2, 3, 5, 6)}, false, true, false, "!missing", 0},
		{"a disk is missing, and accepted", full(1, 2), nil, []foundReplica{at(2, 3, 5, 6)}, false, true, true, "2 | 1@0", 1},
		{"a newer replica is on a disk that came later: perhaps a delta", full(1, 2), nil, []foundReplica{at(1, 3, 5, 6), at(2, 3, 5, 6), at(4, 5, 8, 9)}, true, true, false, "!newer", 0},
		{"the same, accepted", full(1, 2), nil, []foundReplica{at(1, 3, 5, 6), at(2, 3, 5, 6), at(4, 5, 8, 9)}, true, true, true, "1 2 |", 1},
		{"an equally new replica on such a disk is left to the sweep", full(1, 2), nil, []foundReplica{at(1, 5, 8, 9), at(2, 3, 5, 6), at(4, 5, 8, 9)}, true, true, false, "1 | 2@5", 0},
		{"no replica is left", full(1, 2), nil, nil, true, true, true, "!none", 0},
		{"only a disk that came later has one", full(1, 2), nil, []foundReplica{at(4, 5, 8, 9)}, true, true, true, "!only replica", 0},
		{"not restored, a member is there: nothing to do", full(1, 2), nil, []foundReplica{at(2, 3, 5, 6)}, false, false, true, "-", 0},
		{"not restored, the last member is gone and an absent one is there", full(1), []metadb.Absent{{Disk: disk(2), Chunk: 2, Watermark: 4}}, []foundReplica{at(2, 3, 5, 6)}, false, false, true, "2 | 1@0", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := metadb.Extent{Generation: 3, Members: c.members, Absent: c.absent, Revision: 1}
			v := judgeVolume(metadb.Volume{SnapSeq: 1}, []metadb.Extent{e}, metadb.Owner{Epoch: 5}, map[block.ExtentIndex][]foundReplica{0: c.found}, c.all, c.whole, c.accept)
			if want, bad := strings.CutPrefix(c.want, "!"); bad {
				if !strings.Contains(v.Problem, want) || len(v.Extents) != 0 {
					t.Fatalf("%+v, want the problem %q", v, want)
				}
				return
			}
			if v.Problem != "" {
				t.Fatal(v.Problem)
			}
			if c.want == "-" {
				if len(v.Extents) != 0 {
					t.Fatalf("%+v, want nothing", v.Extents)
				}
				return
			}
			var b strings.Builder
			highest := block.Generation(3)
			for _, m := range v.Extents[0].Members {
				b.WriteString(string('0'+rune(m.Disk[0])) + " ")
			}
			b.WriteString("|")
			for _, a := range v.Extents[0].Absent {
				b.WriteString(" " + string('0'+rune(a.Disk[0])) + "@" + string('0'+rune(a.Watermark)))
			}
			for _, f := range c.found {
				highest = max(highest, f.Generation)
			}
			if b.String() != c.want || len(v.Losses) != c.losses {
				t.Errorf("set %q with %d losses, want %q with %d", b.String(), len(v.Losses), c.want, c.losses)
			}
			if v.Extents[0].Generation <= highest || v.Epoch <= 7 && len(c.found) > 0 || v.SnapSeq != 2 {
				t.Errorf("generation %d, epoch %d, snapshot sequence %d: not above everything given out", v.Extents[0].Generation, v.Epoch, v.SnapSeq)
			}
		})
	}
}
