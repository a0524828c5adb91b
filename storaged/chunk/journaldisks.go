package chunk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/iomesh/iomesh/internal/diskdir"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
)

// mountTypes by their names in disk entries.
var mountTypes = map[string]store.MountType{"dataStoreWithJournal": store.DataStoreWithJournal, "dataStore": store.DataStore, "cacheWithJournal": store.CacheWithJournal}

// journalDisk is an open disk that holds the journals of others. It has no replicas, so nobody but the data disks of this node knows it; its loss
// is theirs.
type journalDisk struct {
	entry    diskdir.Entry
	dev      vdisk.Disk
	journals *store.Journals
}

func (j *journalDisk) id() block.DiskID { return j.journals.Superblock().DiskID }

// journalFirst puts entries of journal disks before the others, which may need them.
func journalFirst(entries []diskdir.Entry) {
	slices.SortStableFunc(entries, func(a, b diskdir.Entry) int {
		rank := func(e diskdir.Entry) int {
			if e.MountType == "cacheWithJournal" {
				return 0
			}
			return 1
		}
		return rank(a) - rank(b)
	})
}

// syncJournals opens, checks or reports the journal disk of an entry.
func (d *disks) syncJournals(ctx context.Context, e diskdir.Entry) {
	j := d.journals[e.Name]
	switch {
	case j == nil:
		j, err := d.openJournals(ctx, e)
		if err != nil {
			d.say(diskdir.Status{Name: e.Name, State: diskdir.StateRefused, Message: err.Error(), SizeBytes: e.SizeBytes})
			return
		}
		d.journals[e.Name] = j
		d.log.Info("journal disk opened", "disk", j.id().String(), "device", e.Device)
		d.say(j.status())
	case gone(j.entry.Device):
		for _, x := range d.usersOf(j) {
			d.fail(x, fmt.Errorf("its journal disk %s (%s) has disappeared", j.id(), j.entry.Device))
		}
		st := j.status()
		st.State, st.Message = diskdir.StateFailed, fmt.Sprintf("device %s has disappeared", j.entry.Device)
		d.say(st)
	default:
		d.say(j.status())
	}
}

func (d *disks) openJournals(ctx context.Context, e diskdir.Entry) (*journalDisk, error) {
	dev, err := d.device(e.Device)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", e.Device, err)
	}
	j, err := store.OpenJournals(dev, d.cluster)
	if errors.Is(err, store.ErrBlank) && e.Format {
		d.log.Info("formatting a blank journal disk", "name", e.Name, "device", e.Device, "bytes", dev.SizeBytes())
		id := block.NewDiskID()
		if e.DiskID != "" {
			if id, err = block.ParseDiskID(e.DiskID); err != nil {
				_ = dev.Close()
				return nil, err
			}
		}
		if err = store.Format(ctx, dev, store.FormatOptions{Cluster: d.cluster, DiskID: id, MountType: store.CacheWithJournal}); err == nil {
			j, err = store.OpenJournals(dev, d.cluster)
		}
	}
	if err == nil && e.DiskID != "" && e.DiskID != j.Superblock().DiskID.String() {
		err = fmt.Errorf("the device holds disk %s, the entry names %s: not touched", j.Superblock().DiskID, e.DiskID)
	}
	if err != nil {
		_ = dev.Close()
		return nil, fmt.Errorf("journal disk %s (%s): %w", e.Name, e.Device, err)
	}
	return &journalDisk{entry: e, dev: dev, journals: j}, nil
}

func (j *journalDisk) status() diskdir.Status {
	all, free := j.journals.Areas()
	size := int64(all) * j.journals.JournalBytes()
	return diskdir.Status{Name: j.entry.Name, DiskID: j.id().String(), State: diskdir.StateActive, SizeBytes: size, UsedBytes: size - int64(free)*j.journals.JournalBytes(),
		Message: fmt.Sprintf("%d of %d journals in use", all-free, all)}
}

// usersOf lists the open data disks with a journal on j.
func (d *disks) usersOf(j *journalDisk) []*disk {
	return slices.DeleteFunc(d.all(), func(x *disk) bool { return x.store.Superblock().JournalDisk != j.id() || x.id == j.id() })
}

// releaseJournals lets journal disks go whose entries were removed, once no data disk uses them.
func (d *disks) releaseJournals(wanted map[string]bool) {
	for name, j := range d.journals {
		if wanted[name] {
			continue
		}
		if n := len(d.usersOf(j)); n > 0 {
			st := j.status()
			st.Message = fmt.Sprintf("entry removed; still in use: journals of %d disks", n)
			d.say(st)
			continue
		}
		delete(d.journals, name)
		_ = j.dev.Close()
		d.say(diskdir.Status{Name: name, DiskID: j.id().String(), State: diskdir.StateReleased, SizeBytes: j.entry.SizeBytes})
	}
}

// journalOf is the open journal disk of an id, or nil.
func (d *disks) journalOf(id block.DiskID) *store.Journals {
	for _, j := range d.journals {
		if j.id() == id {
			return j.journals
		}
	}
	return nil
}

// roomiest is the open journal disk with the most free journals, or nil.
func (d *disks) roomiest() *store.Journals {
	var best *store.Journals
	most := 0
	for _, j := range d.journals {
		if _, free := j.journals.Areas(); free > most && !gone(j.entry.Device) {
			best, most = j.journals, free
		}
	}
	return best
}

func gone(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, os.ErrNotExist)
}
