package keeper

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/iomesh/iomesh/agent/blockdev"
	"github.com/iomesh/iomesh/agent/blockdev/fakesys"
	"github.com/iomesh/iomesh/agent/signature"
	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/internal/diskdir"
)

// More starts cost time only: -starts 200 takes half a minute.
var starts = flag.Int("starts", 40, "starts of the machine in TestKernelNamesMayChangeAtEachStart")

// shuffled is a machine with several disks whose kernel names change at each start.
type shuffled struct {
	scanner *blockdev.Scanner
}

func (s *shuffled) OpenExclusive(d *blockdev.Device) (Disk, error) {
	f, err := os.OpenFile(s.scanner.DevPath(d), os.O_RDWR, 0)
	return plainDisk{f}, err
}

type plainDisk struct{ *os.File }

func (plainDisk) RereadPartitions() error { return nil }

func (s *shuffled) Lookup(ctx context.Context, name string) (*blockdev.Device, error) {
	devices, err := s.scanner.Scan(ctx)
	if err != nil {
		return nil, err
	}
	for _, d := range devices {
		if d.KernelName == name {
			return d, nil
		}
	}
	return nil, fmt.Errorf("no device %s", name)
}

// Over many starts with other kernel names each time, and now and then with a disk that is away, the chunk is only ever pointed at the device that holds
// the disk it means, no foreign disk is written to, and no disk changes its name.
func TestKernelNamesMayChangeAtEachStart(t *testing.T) {
	const disks, ours = 8, 4
	rng := rand.New(rand.NewPCG(1, 2))
	dir := t.TempDir()
	diskDir := filepath.Join(dir, "disks")
	// The content of the disks outlives the machine's files: content[i] is that of serial S<i>.
	content := make([]string, disks)
	for i := ours; i < disks; i++ {
		content[i] = "content 0 XFSB"
	}
	names := map[string]string{} // serial to object name
	acted := map[string]Result{} // object name to its status
	wishes := map[string]*v1alpha1.Claim{}
	for start := range *starts {
		perm := rng.Perm(disks)
		away := -1
		if start > 0 && start%7 == 0 {
			away = rng.IntN(disks)
		}
		text := ""
		for i, letter := range perm {
			if i == away {
				continue
			}
			n := fmt.Sprintf("sd%c", 'b'+letter)
			text += fmt.Sprintf("device %s pci/host%d/target1/block/%s\ndev 8:%d\ndevice/wwid naa.%d\ndevice/serial S%d\nsize 4MiB\n%s\n", n, letter, n, 16*(letter+1), i, i, content[i])
		}
		machine := filepath.Join(dir, fmt.Sprintf("machine-%d", start))
		scanner, err := fakesys.Build(machine, text, "worker-1")
		if err != nil {
			t.Fatal(err)
		}
		m := &shuffled{scanner}
		devices, err := scanner.Scan(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(devices) != disks-min(1, 1+away) {
			t.Fatalf("start %d: %d devices", start, len(devices))
		}
		k := New(Options{StateDir: filepath.Join(dir, "state"), DiskDir: diskDir, Devices: m, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return time.Unix(int64(start)*1000, 0) }})
		bySerial := map[string]*blockdev.Device{}
		for _, d := range devices {
			serial, name := d.Key.Serial, d.Name()
			bySerial[serial] = d
			if old := names[serial]; old != "" && old != name {
				t.Fatalf("start %d: disk %s was %s and is %s", start, serial, old, name)
			}
			names[serial] = name
			if wishes[name] == nil && serial < fmt.Sprintf("S%d", ours) {
				id := d.Identity()
				wishes[name] = &v1alpha1.Claim{UID: "claim-" + serial, ClusterRef: v1alpha1.ClusterRef{Name: "iomesh", UID: "u", ClusterID: clusterText},
					MountType: v1alpha1.DataStoreWithJournal, Fingerprint: id.Fingerprint(), ContentFingerprint: id.ContentFingerprint()}
			}
		}
		for i := range disks {
			serial := fmt.Sprintf("S%d", i)
			name := names[serial]
			if name == "" || wishes[name] == nil {
				continue
			}
			in := Input{Name: name, ObjectUID: "object-" + serial, Wish: wishes[name], Acted: acted[name].Claim, DiskID: acted[name].DiskID, Device: bySerial[serial]}
			res, err := k.Reconcile(t.Context(), in)
			if err != nil {
				t.Fatalf("start %d: disk %s: %v", start, serial, err)
			}
			acted[name] = res
		}
		entries, errs := diskdir.Entries(diskDir)
		if len(errs) > 0 {
			t.Fatal(errs)
		}
		for _, e := range entries {
			serial := ""
			for s, n := range names {
				if n == e.Name {
					serial = s
				}
			}
			d := bySerial[serial]
			if d == nil {
				continue // away: what the entry says is not there, or another device that the chunk refuses by its superblock
			}
			if filepath.Base(e.Device) != d.KernelName {
				t.Fatalf("start %d: the entry of disk %s names %s, which is %s now", start, serial, e.Device, d.KernelName)
			}
			// The chunk formats it at its first sight.
			var i int
			if _, err := fmt.Sscanf(serial, "S%d", &i); err != nil {
				t.Fatal(err)
			}
			if e.Format && content[i] == "" {
				content[i] = fmt.Sprintf("content 0 %q", signature.Superblock(clusterID, [16]byte{byte(i + 1)}))
				content[i] = "content 0 " + content[i][len("content 0 \""):len(content[i])-1]
			}
			if start > 2 && start%20 > 0 {
				continue // what it says has not changed
			}
			if err := diskdir.WriteStatus(diskDir, diskdir.Status{Name: e.Name, DiskID: fmt.Sprintf("%02x000000-0000-0000-0000-000000000000", i+1), State: diskdir.StateActive, Replicas: 1, SizeBytes: sizeBytes,
				Time: time.Unix(int64(start)*1000, 0)}); err != nil {
				t.Fatal(err)
			}
		}
		for i := ours; i < disks; i++ {
			d := bySerial[fmt.Sprintf("S%d", i)]
			if d == nil {
				continue
			}
			b, err := os.ReadFile(scanner.DevPath(d))
			if err != nil {
				t.Fatal(err)
			}
			if string(b[:4]) != "XFSB" {
				t.Fatalf("start %d: the foreign disk S%d was written to", start, i)
			}
		}
		if err := os.RemoveAll(machine); err != nil {
			t.Fatal(err)
		}
	}
	for i := range ours {
		name := names[fmt.Sprintf("S%d", i)]
		if acted[name].ClaimState != v1alpha1.Claimed || acted[name].DiskID != fmt.Sprintf("%02x000000-0000-0000-0000-000000000000", i+1) {
			t.Errorf("disk S%d ended as %+v", i, acted[name])
		}
	}
}
