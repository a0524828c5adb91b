package link

import (
	"bytes"
	"os"
	"testing"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
)

// ctlOutput is what the block service's own tests say that `storaged ctl` prints.
func ctlOutput(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("../../storaged/ctl/testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b[bytes.IndexByte(b, '{'):]
}

func TestStatusOfCtlIsUnderstood(t *testing.T) {
	s, err := DecodeStatus(ctlOutput(t, "status-json.txt"))
	if err != nil {
		t.Fatal(err)
	}
	if s.Health != storagedv1.Health_HEALTH_OK || s.ClusterId == "" || s.Leader == "" || s.TotalBytes == 0 || s.AsOf == nil {
		t.Errorf("status %v", s)
	}
	if len(s.Meta) != 1 || !s.Meta[0].Healthy || len(s.Nodes) != 1 || s.Nodes[0].State != "Online" || len(s.Disks) != 1 || s.Disks[0].State != "Active" || s.Disks[0].Node != "n1" {
		t.Errorf("meta %v, nodes %v, disks %v", s.Meta, s.Nodes, s.Disks)
	}
}

func TestVolumesOfCtlAreUnderstood(t *testing.T) {
	list, err := DecodeVolumes(ctlOutput(t, "list-json.txt"))
	if err != nil {
		t.Fatal(err)
	}
	if len(list) == 0 {
		t.Fatal("no volumes")
	}
	v := list[0]
	if v.Id == "" || v.Name != "data" || v.Iqn == "" || len(v.Portals) != 2 || v.SizeBytes != 3<<30 || v.ReplicaFactor != 3 || v.Status.Health != storagedv1.Health_HEALTH_OK || v.OwnerNode != "n2" {
		t.Errorf("volume %v", v)
	}
}
