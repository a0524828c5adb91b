package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"github.com/onsi/gomega"

	"github.com/iomesh/iomesh/csi/rig"
)

// mayskip are the only reasons for a skipped test: capabilities that the driver does not announce, with why.
var maySkip = map[string]string{
	"ControllerModifyVolume not supported":             "nothing of a volume can be changed by a VolumeAttributesClass",
	"Modify volume not supported":                      "the same",
	"Modify Volume not supported":                      "the same",
	"GroupControllerService not supported":             "no snapshots of groups",
	"VolumeGroupSnapshots not supported":               "the same",
	"NodeGetStorageHealth not supported":               "the health of the cluster is in its status",
	"SNAPSHOT_ACCESSIBILITY_CONSTRAINTS not supported": "a snapshot can be restored everywhere",
	"testnodevolumeattachlimit not enabled":            "the scheduler keeps to the limit of volumes per node",
}

// TestSanity runs csi-sanity against the driver with real mounts, FUSE and loop devices, for volumes with a filesystem and for raw ones:
// over the block service in memory, and over the real one with three chunks and iSCSI.
func TestSanity(t *testing.T) {
	rig.Root(t)
	gomega.RegisterFailHandler(ginkgo.Fail)
	var rigs []*rig.Rig
	for _, store := range []struct {
		name string
		make func(testing.TB) *rig.Rig
	}{{"memory", rig.New}, {"storaged", rig.NewStoraged}} {
		for _, access := range []string{"mount", "block"} {
			r := store.make(t)
			rigs = append(rigs, r)
			cfg := sanity.NewTestConfig()
			cfg.Address = r.Serve(r.Controller(), r.Node("n1", nil))
			cfg.TargetPath, cfg.StagingPath = filepath.Join(r.Dir, "target"), filepath.Join(r.Dir, "staging")
			cfg.TestVolumeSize, cfg.TestVolumeExpandSize = 64<<20, 96<<20
			cfg.TestVolumeAccessType = access
			ginkgo.Describe("over "+store.name+", access type "+access, func() {
				sc := sanity.GinkgoTest(&cfg)
				ginkgo.AfterEach(func() { sc.Finalize(); sc.Conn, sc.ControllerConn = nil, nil })
			})
		}
	}
	ran := 0
	ginkgo.ReportAfterSuite("skips are known", func(report ginkgo.Report) {
		for _, s := range report.SpecReports {
			if s.State == types.SpecStatePassed {
				ran++
			}
			if _, ok := maySkip[s.Failure.Message]; s.State == types.SpecStateSkipped && !ok {
				t.Errorf("skipped: %s: %q", strings.Join(append(s.ContainerHierarchyTexts, s.LeafNodeText), " "), s.Failure.Message)
			}
		}
	})
	ginkgo.RunSpecs(t, "CSI sanity")
	t.Logf("%d specs passed", ran)
	for _, r := range rigs {
		if entries, err := os.ReadDir(filepath.Join(r.Dir, "csi")); err == nil && len(entries) > 0 {
			t.Errorf("%d records are left", len(entries))
		}
		if n := r.Attachments(); n != 0 {
			t.Errorf("%d devices are left", n)
		}
		if v, s := r.Objects(); v+s != 0 {
			t.Errorf("%d volumes and %d snapshots are left", v, s)
		}
	}
}
