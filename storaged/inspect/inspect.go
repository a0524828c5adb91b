// Package inspect is the command that prints what is on a disk of storaged: superblocks, checkpoint, replicas, journal and
// maps, from the disk alone. It writes nothing.
package inspect

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
	"github.com/spf13/cobra"
)

// NewCommand returns the command "inspect DISK".
func NewCommand() *cobra.Command {
	var o store.InspectOptions
	var extent, output, journal string
	cmd := &cobra.Command{
		Use:   "inspect DISK",
		Short: "Print what is on a disk, read-only",
		Long: `Prints the superblocks, the checkpoint, the replicas and, on request, the journal, the map of an extent and the outcome of
reading every block of a disk of storaged. DISK is a device or a file. Nothing is written. Stop the chunk that has the disk open
first, or what is printed may mix two moments.`,
		Example: `  storaged inspect /dev/sdb
  storaged inspect --journal disk0.img
  storaged inspect --map 6f1c…/12 --verify -o json disk0.img`,
		Args:          cobra.ExactArgs(1),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("unknown output format %q; use text or json", output)
			}
			if extent != "" {
				e, err := parseExtent(extent)
				if err != nil {
					return err
				}
				o.Extent = &e
			}
			disk, err := vdisk.OpenReadOnly(args[0])
			if err != nil {
				return err
			}
			defer disk.Close()
			if journal != "" {
				j, err := vdisk.OpenReadOnly(journal)
				if err != nil {
					return err
				}
				defer j.Close()
				o.JournalDisk = j
			}
			rep, err := store.Inspect(disk, o)
			if rep != nil {
				if perr := print(cmd.OutOrStdout(), rep, output); perr != nil && err == nil {
					err = perr
				}
			}
			if err != nil {
				return fmt.Errorf("inspect %s: %w", args[0], err)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.Journal, "journal", false, "list the batches of the journal")
	f.StringVar(&journal, "journal-disk", "", "the cacheWithJournal disk of a dataStore disk; without it the disk is shown as of its last checkpoint")
	f.StringVar(&extent, "map", "", "list the map of this extent, as VOLUME/INDEX")
	f.BoolVar(&o.Verify, "verify", false, "read every written block and check it")
	f.StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

func parseExtent(s string) (block.ExtentID, error) {
	vol, index, ok := strings.Cut(s, "/")
	if !ok {
		return block.ExtentID{}, fmt.Errorf("extent %q is not of the form VOLUME/INDEX", s)
	}
	v, err := block.ParseVolumeID(vol)
	if err != nil {
		return block.ExtentID{}, err
	}
	i, err := strconv.ParseUint(index, 10, 32)
	if err != nil {
		return block.ExtentID{}, fmt.Errorf("extent %q: the index is not a number", s)
	}
	return block.ExtentID{Volume: v, Index: block.ExtentIndex(i)}, nil
}

func print(w io.Writer, r *store.Report, output string) error {
	if output == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	text(t, r)
	return t.Flush()
}

var mountTypes = map[store.MountType]string{
	store.DataStoreWithJournal: "dataStoreWithJournal", store.DataStore: "dataStore", store.CacheWithJournal: "cacheWithJournal",
}

func text(w io.Writer, r *store.Report) {
	b, g := r.Superblock, r.Geometry
	fmt.Fprintf(w, "cluster\t%s\n", b.Cluster)
	fmt.Fprintf(w, "disk\t%s\t%s\n", b.DiskID, mountTypes[b.MountType])
	fmt.Fprintf(w, "format\t%d\tfeature level %d\n", b.FormatVersion, b.Feature)
	fmt.Fprintf(w, "mounted\t%d times\n", b.MountCount)
	fmt.Fprintf(w, "size\t%d bytes\n", g.SizeBytes)
	if b.MountType == store.CacheWithJournal {
		for _, a := range r.Areas {
			whose := "of disk " + a.Disk.String()
			if a.Free {
				whose = "free"
			}
			fmt.Fprintf(w, "journal\tat %d\t%d bytes\t%s\n", a.OffsetByte, a.SizeBytes, whose)
		}
		return
	}
	if b.MountType == store.DataStore {
		fmt.Fprintf(w, "journal disk\t%s\n", b.JournalDisk)
	}
	fmt.Fprintf(w, "journal\tat %d\t%d bytes\t%d in use\tnext batch %d\n", g.JournalOffset, g.JournalBytes, r.Journal.UsedBytes, r.Journal.NextBatch)
	if r.Journal.Elsewhere {
		fmt.Fprintf(w, "\tnot looked at: give --journal-disk; below is the last checkpoint\n")
	}
	fmt.Fprintf(w, "meta\tat %d\t%d slots\t%d free\n", g.MetaOffset, g.Slots, r.FreeSlots)
	fmt.Fprintf(w, "data\tat %d\t%d units of 64 KiB\t%d bytes free\n", g.DataOffset, g.Units, r.FreeBytes)
	fmt.Fprintf(w, "checkpoint\t%d\n", r.Checkpoint)
	for _, c := range r.Copies {
		state := fmt.Sprintf("good, number %d", c.Number)
		if c.Problem != "" {
			state = c.Problem
		}
		fmt.Fprintf(w, "%s\tat %d\t%s\n", c.What, c.OffsetByte, state)
	}
	if len(r.Fences) > 0 {
		fmt.Fprintf(w, "\nVOLUME\tEPOCH\tOWNER\n")
		for _, f := range r.Fences {
			fmt.Fprintf(w, "%s\t%d\t%s\n", f.Volume, f.Epoch, f.Owner)
		}
	}
	if len(r.Replicas) > 0 {
		fmt.Fprintf(w, "\nREPLICA\tGENERATION\tWATERMARK\tHIGHEST\tLAYERS\tLIVE\tSNAPSHOTS\tSTATE\n")
		for _, x := range r.Replicas {
			state := "-"
			switch {
			case x.Suspect:
				state = "suspect"
			case x.Joining:
				state = "joining from " + x.JoinStart.String()
			}
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%v\t%d\t%d\t%s\n", x.Extent, x.Generation, x.Watermark, x.Highest, x.Layers, x.LiveBytes, x.SnapshotBytes, state)
		}
	}
	if len(r.Journal.Batches) > 0 {
		fmt.Fprintf(w, "\nBATCH\tLAP\tPOSITION\tDATA\tENTRY\tEXTENT\tBLOCKS\tSTAMP\tSNAPSEQ\n")
		for _, b := range r.Journal.Batches {
			for _, e := range b.Entries {
				fmt.Fprintf(w, "%d\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t%d\n", b.Number, b.Lap, b.Position, b.DataBlocks, e.Type, e.Extent, blocks(e.Range), e.Stamp, e.SnapSeq)
			}
		}
	}
	if len(r.Map) > 0 {
		states := map[store.State]string{store.Unwritten: "unwritten", store.Written: "data", store.Bad: "bad"}
		fmt.Fprintf(w, "\nVIEW\tBLOCKS\tSTATE\tSTAMPS\tPLACE\n")
		for _, m := range r.Map {
			place := "-"
			if m.State == store.Written {
				place = strconv.FormatInt(m.OffsetByte, 10)
				if m.InJournal {
					place += " (journal)"
				}
			}
			stamps := m.First.String()
			if m.Last != m.First {
				stamps += "–" + m.Last.String()
			}
			fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\n", m.View, blocks(m.Range), states[m.State], stamps, place)
		}
	}
	if v := r.Verified; v != nil {
		fmt.Fprintf(w, "\nverified\t%d blocks\t%d bad\n", v.Blocks, len(v.Bad))
		for _, x := range v.Bad {
			fmt.Fprintf(w, "bad\t%s\tview %d\tblock %d\tstamp %s\n", x.Extent, x.View, x.Block, x.Stamp)
		}
	}
	for _, c := range r.Corruptions {
		fmt.Fprintf(w, "damage\t%s\t%v\n", c.What, c.Extents)
	}
}

func blocks(r block.Range) string {
	if r.Count == 0 {
		return "-"
	}
	return fmt.Sprintf("[%d,%d)", r.Start, r.End())
}
