package status

import (
	"testing"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
)

func smallCluster() (*storagedv1.ClusterStatus, *storagedv1.Volume) {
	st := &storagedv1.ClusterStatus{}
	for _, n := range []string{"n1", "n2", "n3"} {
		st.Nodes = append(st.Nodes, &storagedv1.Node{Name: n, State: "Online"})
		st.Disks = append(st.Disks, &storagedv1.Disk{Id: "id-" + n, Name: "d", Node: n, State: "Active"})
	}
	v := &storagedv1.Volume{Name: "v", OwnerNode: "n1", Status: &storagedv1.VolumeStatus{Health: AtRisk.Wire(), Reason: "a replica is missing",
		ExtentStatus: []*storagedv1.ExtentStatus{{Members: []*storagedv1.Member{{DiskId: "id-n1"}}, Absent: []*storagedv1.Member{{DiskId: "id-n2"}}}}}}
	return st, v
}

func TestTheCauseComesBeforeItsConsequences(t *testing.T) {
	st, v := smallCluster()
	var g Graph
	g.AddCluster(st)
	g.AddVolume(v, st)
	g.Add(Object{Kind: KindPVC, Name: "data"}, "Bound", nil, Object{Kind: KindVolume, Name: "v"})
	g.Add(Object{Kind: KindPod, Name: "db-0"}, "waits", nil, Object{Kind: KindPVC, Name: "data"})
	f := Facts{Now: now, Read: now, Nodes: []Node{{Name: "n1", Online: true}, {Name: "n2"}, {Name: "n3"}}}
	own, ok := FindingOf(v)
	if !ok {
		t.Fatal("the volume is not well")
	}
	f.Given = append(f.Given, own, Finding{Code: AttachFailed, State: Degraded, Object: Object{Kind: KindPod, Name: "db-0"}, Reason: "attach timed out"})
	x := Why(&g, Evaluate(f), Object{Kind: KindPod, Name: "db-0"})
	var codes []string
	for _, c := range x.Causes {
		codes = append(codes, string(c.Code)+" "+c.Object.Name)
	}
	// n3 is offline too, and no concern of this pod.
	want := []string{"NodeOffline n2", "VolumeAtRisk v", "AttachFailed db-0"}
	if len(codes) != len(want) {
		t.Fatalf("%v", codes)
	}
	for i := range want {
		if codes[i] != want[i] {
			t.Errorf("%v, want %v", codes, want)
			break
		}
	}
	if x.State != AtRisk || len(x.Chain) < 5 || x.Chain[0].Object.Name != "db-0" || x.Chain[1].Object.Name != "data" || x.Chain[2].Object.Name != "v" {
		t.Errorf("%s, chain %v", x.State, x.Chain)
	}
}

func TestAHealthyObjectHasNoCause(t *testing.T) {
	st, v := smallCluster()
	v.Status.Health = OK.Wire()
	var g Graph
	g.AddCluster(st)
	g.AddVolume(v, st)
	if _, bad := FindingOf(v); bad {
		t.Error("a healthy volume has a finding")
	}
	if x := Why(&g, Evaluate(healthy()), Object{Kind: KindVolume, Name: "v"}); x.State != OK || len(x.Causes) != 0 {
		t.Errorf("%+v", x)
	}
}

func TestDisksAreFoundByIDByPlaceAndByNameIfThereIsOne(t *testing.T) {
	st, _ := smallCluster()
	for name, want := range map[string]string{"id-n2": "n2/d", "n3/d": "n3/d"} {
		if o, ok := DiskNamed(st, name); !ok || o.Name != want {
			t.Errorf("%s: %v %v", name, o, ok)
		}
	}
	if o, ok := DiskNamed(st, "d"); ok {
		t.Errorf("one of three disks of the same name: %v", o)
	}
}

func TestParseObject(t *testing.T) {
	for s, want := range map[string]string{"pvc/data": "pvc/data", "Node/n1": "node/n1", "disk/n1/d": "disk/n1/d", "cluster": "cluster", "": "cluster"} {
		if o, err := ParseObject(s); err != nil || o.String() != want {
			t.Errorf("%q: %v %v", s, o, err)
		}
	}
	for _, s := range []string{"volume", "volume/", "deployment/x", "x"} {
		if _, err := ParseObject(s); err == nil {
			t.Errorf("%q is taken", s)
		}
	}
}
