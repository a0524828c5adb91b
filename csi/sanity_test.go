package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/gomega"

	"github.com/iomesh/iomesh/csi/rig"
)

// TestSanity runs csi-sanity against the driver with real mounts, FUSE and loop devices, for volumes with a filesystem and for raw ones.
func TestSanity(t *testing.T) {
	gomega.RegisterFailHandler(ginkgo.Fail)
	var rigs []*rig.Rig
	for _, access := range []string{"mount", "block"} {
		r := rig.New(t)
		rigs = append(rigs, r)
		cfg := sanity.NewTestConfig()
		cfg.Address = r.Serve(r.Controller(), r.Node("n1", nil))
		cfg.TargetPath, cfg.StagingPath = filepath.Join(r.Dir, "target"), filepath.Join(r.Dir, "staging")
		cfg.TestVolumeSize, cfg.TestVolumeExpandSize = 64<<20, 96<<20
		cfg.TestVolumeAccessType = access
		ginkgo.Describe("access type "+access, func() {
			sc := sanity.GinkgoTest(&cfg)
			ginkgo.AfterEach(func() { sc.Finalize(); sc.Conn, sc.ControllerConn = nil, nil })
		})
	}
	ginkgo.RunSpecs(t, "CSI sanity")
	for _, r := range rigs {
		if entries, err := os.ReadDir(filepath.Join(r.Dir, "csi")); err == nil && len(entries) > 0 {
			t.Errorf("%d records are left", len(entries))
		}
		if n := r.Attachments(); n != 0 {
			t.Errorf("%d devices are left", n)
		}
		if v, s, g := r.Meta.Counts(); v+s+g != 0 {
			t.Errorf("%d volumes, %d snapshots, %d grants are left", v, s, g)
		}
	}
}
