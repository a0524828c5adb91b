package params

import (
	"strings"
	"testing"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/csi/code"
)

func TestParse(t *testing.T) {
	for _, tc := range []struct {
		name string
		in   map[string]string
		want Parameters
		err  string // "" = none
	}{
		{"nothing gives the defaults", nil, Parameters{ReplicaFactor: 2}, ""},
		{"everything set", map[string]string{
			"replicaFactor": "3", "thinProvision": "false", "auth": "true", "csi.storage.k8s.io/fstype": "xfs",
			"csi.storage.k8s.io/controller-publish-secret-name": "${pvc.annotations['iomesh.com/key']}", "csi.storage.k8s.io/pvc/name": "a", "restrictTopology": "true",
		}, Parameters{ReplicaFactor: 3, Thick: true, Auth: true, FSType: "xfs", RestrictTopology: true}, ""},
		{"four replicas", map[string]string{"replicaFactor": "4"}, Parameters{}, `StorageClass parameter replicaFactor: "4" is not valid; want one of "2" (default), "3"`},
		{"one replica", map[string]string{"replicaFactor": "1"}, Parameters{}, `replicaFactor: "1"`},
		{"a word for a number", map[string]string{"replicaFactor": "two"}, Parameters{}, `replicaFactor: "two"`},
		{"a number for a bool", map[string]string{"thinProvision": "1"}, Parameters{}, `thinProvision: "1" is not valid; want one of "true" (default), "false"`},
		{"a filesystem we cannot make", map[string]string{"csi.storage.k8s.io/fstype": "ntfs"}, Parameters{}, `fstype: "ntfs"`},
		{"a mistyped name lists the valid ones", map[string]string{"replicafactor": "3"}, Parameters{}, `StorageClass parameter "replicafactor" is unknown; valid are auth: "true"`},
		{"an unknown name of the sidecars' group", map[string]string{"csi.storage.k8s.io/fsTyp": "xfs"}, Parameters{}, `"csi.storage.k8s.io/fsTyp" is unknown`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Parse(tc.in)
			if tc.err == "" {
				if err != nil || got != tc.want {
					t.Errorf("%+v, %v; want %+v", got, err, tc.want)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tc.err) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want one line with %s", err, tc.err)
			}
			if code.Of(err) != codes.InvalidArgument {
				t.Errorf("code %v", code.Of(err))
			}
		})
	}
}

func TestEveryAccessModeIsGrantedOrRefusedAsDocumented(t *testing.T) {
	const (
		exclusive = storagedv1.AccessMode_ACCESS_MODE_EXCLUSIVE
		shared    = storagedv1.AccessMode_ACCESS_MODE_SHARED
		readOnly  = storagedv1.AccessMode_ACCESS_MODE_READ_ONLY
		refused   = storagedv1.AccessMode_ACCESS_MODE_UNSPECIFIED
	)
	for mode, want := range map[csipb.VolumeCapability_AccessMode_Mode]struct{ mount, block storagedv1.AccessMode }{
		csipb.VolumeCapability_AccessMode_UNKNOWN:                   {refused, refused},
		csipb.VolumeCapability_AccessMode_SINGLE_NODE_WRITER:        {exclusive, exclusive},
		csipb.VolumeCapability_AccessMode_SINGLE_NODE_READER_ONLY:   {readOnly, readOnly},
		csipb.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY:    {refused, readOnly},
		csipb.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER:  {refused, shared},
		csipb.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER:   {refused, shared},
		csipb.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER: {exclusive, exclusive},
		csipb.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER:  {exclusive, exclusive},
	} {
		am := &csipb.VolumeCapability_AccessMode{Mode: mode}
		for _, kind := range []struct {
			cap  *csipb.VolumeCapability
			want storagedv1.AccessMode
		}{
			{&csipb.VolumeCapability{AccessMode: am, AccessType: &csipb.VolumeCapability_Mount{Mount: &csipb.VolumeCapability_MountVolume{}}}, want.mount},
			{&csipb.VolumeCapability{AccessMode: am, AccessType: &csipb.VolumeCapability_Block{Block: &csipb.VolumeCapability_BlockVolume{}}}, want.block},
		} {
			c, err := ParseCapability(kind.cap)
			if (err != nil) != (kind.want == refused) {
				t.Errorf("%s, block %t: error %v", mode, kind.cap.GetBlock() != nil, err)
			} else if err == nil && c.Access(false) != kind.want {
				t.Errorf("%s, block %t: grant %s, want %s", mode, c.Block, c.Access(false), kind.want)
			} else if err == nil && c.Access(true) != readOnly {
				t.Errorf("%s: a read-only publish is granted %s", mode, c.Access(true))
			}
		}
	}
	if len(csipb.VolumeCapability_AccessMode_Mode_name) != 8 {
		t.Error("the CSI specification has new access modes: decide on them in the table access")
	}
}
