package daemon

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/iomesh/iomesh/attach/loop"
)

const goldenRecord = `{
  "version": 1,
  "volumeID": "v1",
  "iqn": "iqn.2016-02.com.iomesh:x",
  "initiator": "iqn.2016-02.com.iomesh:node:n1",
  "readOnly": false,
  "sizeBytes": 4096,
  "since": "2026-01-02T03:04:05Z",
  "device": "/dev/loop7",
  "backing": {
    "Device": 60,
    "Inode": 2
  }
}
`

func TestTheRecordsFormat(t *testing.T) {
	want := record{
		Version: 1, VolumeID: "v1", IQN: "iqn.2016-02.com.iomesh:x", Initiator: "iqn.2016-02.com.iomesh:node:n1", SizeBytes: 4096,
		Since: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Device: "/dev/loop7", Backing: loop.Backing{Device: 60, Inode: 2},
	}
	r := records{t.TempDir()}
	if err := r.save(want); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(r.path("v1")); err != nil || string(b) != goldenRecord {
		t.Errorf("on disk: %s, %v", b, err)
	}
	if err := os.WriteFile(filepath.Join(r.dir, "broken.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	recs, bad := r.load()
	if len(recs) != 1 || !reflect.DeepEqual(recs[0], want) || len(bad) != 1 {
		t.Errorf("%+v, %v; want the good record and one error for the broken one", recs, bad)
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(goldenRecord))
	f.Add([]byte(`{"version":1,"volumeID":"a","device":"/dev/sda"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		rec, err := decodeRecord(b)
		if err == nil && (checkVolumeID(rec.VolumeID) != nil || rec.Device != "" && !isLoopPath(rec.Device)) {
			t.Errorf("%+v was taken", rec)
		}
	})
}
