package node

import (
	"os"
	"reflect"
	"testing"

	"github.com/iomesh/iomesh/csi/node/mode"
)

const someVolume = "0b1c2d3e-1111-4222-8333-444455556666"

// goldenRecord is version 1 on disk. A later version has to read it, or a running node loses its volumes at an upgrade.
const goldenRecord = `{
  "version": 1,
  "volumeID": "0b1c2d3e-1111-4222-8333-444455556666",
  "mode": "userspace",
  "iqn": "iqn.2016-02.com.iomesh:x",
  "block": false,
  "fstype": "ext4",
  "staging": "/var/lib/kubelet/s",
  "formatting": true,
  "published": [
    "/a",
    "/b"
  ]
}
`

func TestTheRecordsFormat(t *testing.T) {
	want := record{
		Version: 1, VolumeID: someVolume, Mode: mode.Userspace, IQN: "iqn.2016-02.com.iomesh:x", FSType: "ext4", Staging: "/var/lib/kubelet/s",
		Formatting: true, Published: []string{"/a", "/b"},
	}
	r := records{t.TempDir()}
	if err := r.save(want); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(r.path(someVolume)); err != nil || string(b) != goldenRecord {
		t.Errorf("on disk: %s, %v", b, err)
	}
	if got, ok, err := r.load(someVolume); err != nil || !ok || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %t, %v", got, ok, err)
	}
	if ids, err := r.volumes(); err != nil || len(ids) != 1 {
		t.Errorf("%v, %v", ids, err)
	}
	if err := r.remove(someVolume); err != nil {
		t.Error(err)
	}
	if _, ok, err := r.load(someVolume); ok || err != nil {
		t.Errorf("after removal: %t, %v", ok, err)
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(goldenRecord))
	f.Add([]byte(`{"version":1,"volumeID":"../../etc/passwd"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		rec, err := decodeRecord(b)
		if err == nil && !volumeID(rec.VolumeID) {
			t.Errorf("volume id %q was taken", rec.VolumeID)
		}
	})
}
