package controller_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/csi/code"
	"github.com/iomesh/iomesh/csi/controller"
	"github.com/iomesh/iomesh/csi/rig"
	"github.com/iomesh/iomesh/csi/topology"
)

const mib = 1 << 20

func raw(m csipb.VolumeCapability_AccessMode_Mode) *csipb.VolumeCapability {
	return &csipb.VolumeCapability{
		AccessType: &csipb.VolumeCapability_Block{Block: &csipb.VolumeCapability_BlockVolume{}}, AccessMode: &csipb.VolumeCapability_AccessMode{Mode: m},
	}
}

const (
	exclusive = csipb.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
	shared    = csipb.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
)

func create(name string, m csipb.VolumeCapability_AccessMode_Mode) *csipb.CreateVolumeRequest {
	return &csipb.CreateVolumeRequest{Name: name, CapacityRange: &csipb.CapacityRange{RequiredBytes: 16 * mib}, VolumeCapabilities: []*csipb.VolumeCapability{raw(m)}}
}

// TestAKilledControllerConverges kills the controller at each step, once: the block service has done the work, the sidecar got no answer and
// repeats the call to another controller.
func TestAKilledControllerConverges(t *testing.T) {
	r := rig.NewStoraged(t)
	killed := errors.New("killed")
	for _, at := range controller.Steps() {
		t.Run("at "+at, func(t *testing.T) {
			hit := false
			c := r.Controller()
			c.Step = func(step string) error {
				if step == at && !hit {
					hit = true
					return killed
				}
				return nil
			}
			ctx := t.Context()
			repeat := func(what string, f func(*controller.Service) error) {
				t.Helper()
				err := f(c)
				if errors.Is(err, killed) {
					c = r.Controller()
					err = f(c)
				}
				if err != nil {
					t.Fatalf("%s: %v", what, err)
				}
			}
			var id, snap string
			node := "iqn.2016-02.com.iomesh:node:n1"
			repeat("create", func(c *controller.Service) error {
				v, err := c.CreateVolume(ctx, create("v-"+at, exclusive))
				id = v.GetVolume().GetVolumeId()
				return err
			})
			repeat("publish", func(c *controller.Service) error {
				_, err := c.ControllerPublishVolume(ctx, &csipb.ControllerPublishVolumeRequest{VolumeId: id, NodeId: node, VolumeCapability: raw(exclusive)})
				return err
			})
			repeat("snapshot", func(c *controller.Service) error {
				s, err := c.CreateSnapshot(ctx, &csipb.CreateSnapshotRequest{Name: "s-" + at, SourceVolumeId: id})
				snap = s.GetSnapshot().GetSnapshotId()
				return err
			})
			repeat("expand", func(c *controller.Service) error {
				_, err := c.ControllerExpandVolume(ctx, &csipb.ControllerExpandVolumeRequest{VolumeId: id, CapacityRange: &csipb.CapacityRange{RequiredBytes: 32 * mib}})
				return err
			})
			repeat("unpublish", func(c *controller.Service) error {
				_, err := c.ControllerUnpublishVolume(ctx, &csipb.ControllerUnpublishVolumeRequest{VolumeId: id, NodeId: node})
				return err
			})
			repeat("delete snapshot", func(c *controller.Service) error {
				_, err := c.DeleteSnapshot(ctx, &csipb.DeleteSnapshotRequest{SnapshotId: snap})
				return err
			})
			repeat("delete", func(c *controller.Service) error {
				_, err := c.DeleteVolume(ctx, &csipb.DeleteVolumeRequest{VolumeId: id})
				return err
			})
			if !hit {
				t.Errorf("the step %s was never reached", at)
			}
			if v, s := r.Objects(); v+s != 0 {
				t.Errorf("%d volumes and %d snapshots are left", v, s)
			}
		})
	}
}

func TestAVolumeWithSnapshotsIsKeptUntilTheLastOneHasGone(t *testing.T) {
	r := rig.NewStoraged(t)
	c, ctx := r.Controller(), t.Context()
	v, err := c.CreateVolume(ctx, create("v", exclusive))
	if err != nil {
		t.Fatal(err)
	}
	id := v.Volume.VolumeId
	snap, err := c.CreateSnapshot(ctx, &csipb.CreateSnapshotRequest{Name: "s", SourceVolumeId: id})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.DeleteVolume(ctx, &csipb.DeleteVolumeRequest{VolumeId: id})
	if code.Of(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "snapshot") {
		t.Errorf("delete of a volume with a snapshot: %v, want FailedPrecondition that names it", err)
	}
	restored, err := c.CreateVolume(ctx, func() *csipb.CreateVolumeRequest {
		in := create("restored", exclusive)
		in.VolumeContentSource = &csipb.VolumeContentSource{Type: &csipb.VolumeContentSource_Snapshot{
			Snapshot: &csipb.VolumeContentSource_SnapshotSource{SnapshotId: snap.Snapshot.SnapshotId}}}
		return in
	}())
	if err != nil {
		t.Fatalf("restore after the refused delete: %v", err)
	}
	for what, f := range map[string]func() error{
		"restored": func() error {
			_, err := c.DeleteVolume(ctx, &csipb.DeleteVolumeRequest{VolumeId: restored.Volume.VolumeId})
			return err
		},
	} {
		if err := f(); err != nil {
			t.Errorf("delete %s: %v", what, err)
		}
	}
	if _, err := c.DeleteSnapshot(ctx, &csipb.DeleteSnapshotRequest{SnapshotId: snap.Snapshot.SnapshotId}); err != nil {
		t.Error(err)
	}
	if _, err := c.DeleteVolume(ctx, &csipb.DeleteVolumeRequest{VolumeId: id}); err != nil {
		t.Errorf("delete after the last snapshot has gone: %v", err)
	}
	if v, s := r.Objects(); v+s != 0 {
		t.Errorf("%d volumes and %d snapshots are left", v, s)
	}
}

func TestTheListSaysWhereVolumesArePublished(t *testing.T) {
	r := rig.NewStoraged(t)
	c, ctx := r.Controller(), t.Context()
	v, err := c.CreateVolume(ctx, create("v", shared))
	if err != nil {
		t.Fatal(err)
	}
	id := v.Volume.VolumeId
	nodes := []string{"iqn.2016-02.com.iomesh:node:a", "iqn.2016-02.com.iomesh:node:b"}
	for _, n := range nodes {
		if _, err := c.ControllerPublishVolume(ctx, &csipb.ControllerPublishVolumeRequest{VolumeId: id, NodeId: n, VolumeCapability: raw(shared)}); err != nil {
			t.Fatal(err)
		}
	}
	published := func() []string {
		t.Helper()
		list, err := c.ListVolumes(ctx, &csipb.ListVolumesRequest{})
		if err != nil || len(list.Entries) != 1 {
			t.Fatalf("%d volumes, %v", len(list.GetEntries()), err)
		}
		got := list.Entries[0].Status.PublishedNodeIds
		slices.Sort(got)
		one, err := c.ControllerGetVolume(ctx, &csipb.ControllerGetVolumeRequest{VolumeId: id})
		if err != nil || len(one.Status.PublishedNodeIds) != len(got) {
			t.Errorf("get volume says %v (%v), the list %v", one.GetStatus().GetPublishedNodeIds(), err, got)
		}
		return got
	}
	if got := published(); !slices.Equal(got, nodes) {
		t.Errorf("published to %v, want %v", got, nodes)
	}
	if _, err := c.ControllerUnpublishVolume(ctx, &csipb.ControllerUnpublishVolumeRequest{VolumeId: id, NodeId: nodes[0]}); err != nil {
		t.Fatal(err)
	}
	if got := published(); !slices.Equal(got, nodes[1:]) {
		t.Errorf("published to %v, want %v", got, nodes[1:])
	}
	health, err := c.ControllerGetVolumeHealth(ctx, &csipb.ControllerGetVolumeHealthRequest{VolumeId: id})
	if err != nil || len(health.VolumeHealth.HealthStatuses) != 0 {
		t.Errorf("a healthy volume: %v, %v", health, err)
	}
	// Without a node id: from all.
	if _, err := c.ControllerUnpublishVolume(ctx, &csipb.ControllerUnpublishVolumeRequest{VolumeId: id}); err != nil {
		t.Fatal(err)
	}
	if got := published(); len(got) != 0 {
		t.Errorf("published to %v after unpublish from all", got)
	}
	if _, err := c.DeleteVolume(ctx, &csipb.DeleteVolumeRequest{VolumeId: id}); err != nil {
		t.Error(err)
	}
}

// sick answers for the block service with a volume in a given state of health.
type sick struct {
	controller.Store
	status *storagedv1.VolumeStatus
}

const sickID = "0b1c2d3e-1111-4222-8333-444455556666"

func (s sick) GetVolume(context.Context, *storagedv1.GetVolumeRequest, ...grpc.CallOption) (*storagedv1.Volume, error) {
	return &storagedv1.Volume{Id: sickID, Status: s.status}, nil
}

func TestTheConditionOfAVolumeCarriesReasonAndNextStep(t *testing.T) {
	for health, want := range map[storagedv1.Health]csipb.VolumeHealthErrorType{
		storagedv1.Health_HEALTH_DEGRADED:    csipb.VolumeHealthErrorType_DEGRADED,
		storagedv1.Health_HEALTH_AT_RISK:     csipb.VolumeHealthErrorType_DEGRADED,
		storagedv1.Health_HEALTH_UNAVAILABLE: csipb.VolumeHealthErrorType_INACCESSIBLE,
	} {
		c := &controller.Service{Store: sick{status: &storagedv1.VolumeStatus{Health: health, Reason: "a disk is lost", NextStep: "replace it"}}}
		got, err := c.ControllerGetVolumeHealth(t.Context(), &csipb.ControllerGetVolumeHealthRequest{VolumeId: sickID})
		if err != nil || len(got.VolumeHealth.HealthStatuses) != 1 {
			t.Fatalf("%s: %v, %v", health, got, err)
		}
		if e := got.VolumeHealth.HealthStatuses[0]; e.Status != want || e.Message != "a disk is lost; replace it" {
			t.Errorf("%s: %v %q, want %v", health, e.Status, e.Message, want)
		}
	}
}

func TestCapacityIsPerTopologyAndReplicaFactor(t *testing.T) {
	r := rig.NewStoraged(t)
	c, ctx := r.Controller(), t.Context()
	id, err := c.ClusterID(ctx)
	if err != nil {
		t.Fatal(err)
	}
	get := func(t *testing.T, at *csipb.Topology, parameters map[string]string) int64 {
		t.Helper()
		resp, err := c.GetCapacity(ctx, &csipb.GetCapacityRequest{AccessibleTopology: at, Parameters: parameters})
		if err != nil {
			t.Fatal(err)
		}
		return resp.AvailableCapacity
	}
	here := topology.OfCluster(id)
	two, three := get(t, here, nil), get(t, here, map[string]string{"replicaFactor": "3"})
	if two <= 0 || three <= 0 || three >= two {
		t.Errorf("capacity with two replicas %d, with three %d", two, three)
	}
	if thick := get(t, here, map[string]string{"thinProvision": "false"}); thick <= 0 || thick > two {
		t.Errorf("capacity thick %d, thin %d", thick, two)
	}
	// The scheduler asks for each node alone; two replicas never fit on one, but volumes of more allowed nodes can be used there.
	if one := get(t, topology.OfNode(id, "n1"), map[string]string{"restrictTopology": "true"}); one != two {
		t.Errorf("capacity at one node, for volumes that stay on allowed nodes: %d, in all %d", one, two)
	}
	if other := get(t, topology.OfCluster("another"), nil); other != 0 {
		t.Errorf("capacity in another cluster: %d", other)
	}
	resp, err := c.GetCapacity(ctx, &csipb.GetCapacityRequest{AccessibleTopology: here, VolumeCapabilities: []*csipb.VolumeCapability{{
		AccessType: &csipb.VolumeCapability_Mount{Mount: &csipb.VolumeCapability_MountVolume{}}, AccessMode: &csipb.VolumeCapability_AccessMode{Mode: shared},
	}}})
	if err != nil || resp.AvailableCapacity != 0 {
		t.Errorf("capacity for what cannot be made: %v, %v", resp, err)
	}
	if _, err := c.GetCapacity(ctx, &csipb.GetCapacityRequest{Parameters: map[string]string{"replicas": "2"}}); code.Of(err) != codes.InvalidArgument {
		t.Errorf("capacity of an unknown parameter: %v", err)
	}
}

func TestARefusedParameterComesWithTheListOfValidOnes(t *testing.T) {
	r := rig.New(t)
	in := create("v", exclusive)
	in.Parameters = map[string]string{"replicafactor": "3"}
	_, err := r.Controller().CreateVolume(t.Context(), in)
	for _, want := range []string{`"replicafactor"`, "replicaFactor", "thinProvision", "auth", "restrictTopology", "csi.storage.k8s.io/fstype"} {
		if code.Of(err) != codes.InvalidArgument || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("error %v lacks %s", err, want)
		}
	}
}
