//go:build e2e && conformance

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/iomesh/iomesh/tests/image"
	"github.com/iomesh/iomesh/tests/kube/toolchain"
	"github.com/iomesh/iomesh/tests/lab"
)

// conformanceClasses are the StorageClasses of the runs, beside the chart's own.
const conformanceClasses = `
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: conformance-xfs}
provisioner: com.iomesh.csi-driver
parameters: {csi.storage.k8s.io/fstype: xfs, replicaFactor: "2"}
allowVolumeExpansion: true
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: conformance-topology}
provisioner: com.iomesh.csi-driver
parameters: {replicaFactor: "2", restrictTopology: "true"}
`

// filtered are specs that are about something else than what is declared true: other systems, kinds of objects that the driver says it does
// not have, and alpha features. Ginkgo's -skip.
const filtered = `Feature:(Windows|LabelSelector|VolumeGroup|CSISnap|SELinux|VolumeAttr)|\[Disruptive\]`

// sharedFilesystem is the one spec that the declared RWX would run with a filesystem too, which the driver refuses with a reason.
const sharedFilesystem = `Dynamic PV \((default fs|filesystem volmode|ext[34]|xfs)\).*from pods on different node`

// otherControllers is a spec that installs two controllers of others, whose images cannot be had here; the driver makes it an ordinary volume.
const otherControllers = `any volume data source`

// slowSkipped are the slow and serial specs that are left out.
const slowSkipped = filtered + "|" + sharedFilesystem + "|" + otherControllers

// conformanceRuns are the runs of upstream's suite. slow ones take long and are on demand: IOMESH_CONFORMANCE is the names of
// runs, with semicolons between them, or "all".
var conformanceRuns = []struct {
	name, definition, focus, skip string
	slow                          bool
}{
	{"ext4", "conformance-ext4.yaml", `External.Storage`, filtered + `|\[Serial\]|\[Slow\]`, false},
	{"xfs", "conformance-xfs.yaml", `External.Storage`, filtered + `|\[Serial\]|\[Slow\]`, false},
	{"topology of single nodes", "conformance-topology.yaml", `External.Storage.*topology`, filtered, false},
	{"block volumes on two nodes", "conformance-ext4.yaml", `External.Storage.*block volmode.*from pods on different node`, filtered, false},
	{"slow and serial, ext4", "conformance-ext4.yaml", `External.Storage.*(\[Slow\]|\[Serial\])`, slowSkipped, true},
	// The limit of 128 volumes on a node is reached with ext4; with 300 MiB for each the pool would have to be larger.
	{"slow and serial, xfs", "conformance-xfs.yaml", `External.Storage.*(\[Slow\]|\[Serial\])`, slowSkipped + `|should support volume limits`, true},
}

// maySkip are the only reasons for which a spec may skip itself, by a part of its message, with why that is right.
var maySkip = map[string]string{
	`does not support volume type "CSIInlineVolume"`:            "inline volumes vanish with their pod; the driver has persistent ones, and generic ephemeral ones by claims",
	`does not support volume type "InlineVolume"`:               "in-tree kinds of volumes, not CSI",
	`does not support volume type "PreprovisionedPV"`:           "upstream's definition of external drivers cannot make volumes beforehand; pre-provisioned snapshots do run",
	`does not support "ext4" fs type`:                           "the run's class has another filesystem",
	`does not support "ext3" fs type`:                           "the run's class has another filesystem",
	`does not support "xfs" fs type`:                            "the run's class has another filesystem",
	"doesn't support ext3 -- skipping":                          "the run's class has another filesystem",
	"doesn't support ext4 -- skipping":                          "the run's class has another filesystem",
	"doesn't support xfs -- skipping":                           "the run's class has another filesystem",
	"does not support ROX access mode":                          "ReadOnlyMany is for Block only here, upstream's specs want it for filesystems too; Block is tested in csi/node, where the target itself refuses writes",
	"does not support online volume expansion":                  "ext4 grows online only with CAP_SYS_RESOURCE; the xfs run has it",
	"does not support snapshot metadata":                        "no SnapshotMetadata service",
	"does not support group snapshots":                          "no snapshots of groups",
	"does not support volume group snapshot":                    "no snapshots of groups",
	"doesn't specify volume group snapshot stress test options": "no snapshots of groups",
	"does not support snapshots - skipping":                     "the spec's pattern has no kind of snapshot; those of block, ext4 and xfs have",
	"Driver didn't provide topology keys":                       "this class does not restrict volumes to nodes; the run with topology of single nodes has one that does",
	"Block volumes do not support mount options":                "the spec's own rule for its pattern",
	"Test is not valid for Block volume mode":                   "the spec's own rule for its pattern",
	"raw block volumes cannot be read-only":                     "the spec's own rule for its pattern",
	"skipping multiple PV mount test for block mode":            "the spec's own rule for its pattern",
	"Filesystem volume case should be covered by block":         "the spec's own rule for its pattern",
	"does not support reconstruction, skipping":                 "the spec's own rule for its pattern",
	"Multiple generic ephemeral volumes with immediate binding": "upstream skips it for every driver",
	`is ephemeral`:                             "the spec's own rule for its pattern",
	`is not ephemeral`:                         "the spec's own rule for its pattern",
	`Suite "volumeLimits" does not support`:    "the spec's own rule for its pattern",
	"doesn't specify performance test options": "upstream's performance figures are of its own drivers",
}

// specReport is what of ginkgo's JSON report is looked at.
type specReport struct {
	ContainerHierarchyTexts []string
	LeafNodeText            string
	LeafNodeType            string
	State                   string
	Failure                 struct{ Message string }
	RunTime                 time.Duration
}

func (s specReport) name() string {
	return strings.Join(append(s.ContainerHierarchyTexts, s.LeafNodeText), " ")
}

// TestConformance runs Kubernetes' own suite for external storage drivers against the driver.
func TestConformance(t *testing.T) {
	ctx, l := ready(t, 3*time.Hour)
	set, err := toolchain.Ensure(ctx, toolchain.Options{Conformance: true, Progress: l.Say})
	if err != nil {
		t.Fatal(err)
	}
	agnhost(ctx, t, l, set)
	if err := l.Apply(ctx, conformanceClasses); err != nil {
		t.Fatal(err)
	}
	wish := os.Getenv("IOMESH_CONFORMANCE")
	named := strings.Split(wish, ";")
	for _, r := range conformanceRuns {
		if wish != "all" && !slices.Contains(named, r.name) && (wish != "" || r.slow) {
			continue
		}
		t.Run(r.name, func(t *testing.T) {
			begin := time.Now()
			out := filepath.Join(l.Root, "build", "conformance", strings.ReplaceAll(strings.ReplaceAll(r.name, " ", "-"), ",", ""))
			if err := os.RemoveAll(out); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(out, 0o755); err != nil {
				t.Fatal(err)
			}
			argv := []string{filepath.Join(set.Bin, "ginkgo"), "--procs=4", "--timeout=100m", "--no-color", "--silence-skips", "--json-report=report.json", "--output-dir=" + out,
				"--focus=" + r.focus, "--skip=" + r.skip, filepath.Join(set.Bin, "e2e.test"), "--", "--provider=local",
				"--storage.testdriver=" + filepath.Join(l.Root, "tests", "e2e", "testdata", r.definition), "--report-dir=" + out}
			log, err := os.Create(filepath.Join(out, "log.txt"))
			if err != nil {
				t.Fatal(err)
			}
			defer log.Close()
			cmd := l.Command(ctx, argv...)
			cmd.Stdout, cmd.Stderr = log, log
			runErr := cmd.Run()
			judge(t, filepath.Join(out, "report.json"), runErr, time.Since(begin))
		})
	}
}

// judge counts what ran and demands that nothing failed and every skip is a known one.
func judge(t *testing.T, file string, runErr error, took time.Duration) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("no report: %v; the suite ended with %v (see log.txt beside it)", err, runErr)
	}
	var reports []struct{ SpecReports []specReport }
	if err := json.Unmarshal(b, &reports); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	passed, skips := 0, map[string]int{}
	for _, r := range reports {
		for _, s := range r.SpecReports {
			switch {
			case s.LeafNodeType != "It":
				if s.State != "passed" && s.State != "skipped" {
					t.Errorf("%s %s: %s", s.LeafNodeType, s.State, s.Failure.Message)
				}
			case s.State == "passed":
				passed++
			case s.State == "skipped" && s.Failure.Message == "", s.State == "pending":
				// left out by the filters
			case s.State == "skipped":
				skips[reason(t, s)]++
			default:
				t.Errorf("%s: %s\n    %s", s.State, s.name(), strings.ReplaceAll(s.Failure.Message, "\n", "\n    "))
			}
		}
	}
	t.Logf("%d specs passed in %s", passed, took.Round(time.Second))
	var lines []string
	for why, n := range skips {
		lines = append(lines, fmt.Sprintf("%4d × %s", n, why))
	}
	slices.Sort(lines)
	t.Logf("skipped by themselves:\n%s", strings.Join(lines, "\n"))
	if passed == 0 {
		t.Error("nothing ran")
	}
	if runErr != nil && !t.Failed() {
		t.Errorf("the suite ended with %v", runErr)
	}
}

// reason is the entry of maySkip for a skipped spec, or an error.
func reason(t *testing.T, s specReport) string {
	t.Helper()
	for part, why := range maySkip {
		if strings.Contains(s.Failure.Message, part) {
			return part + ": " + why
		}
	}
	t.Errorf("unexpected skip: %s: %q", s.name(), s.Failure.Message)
	return "UNEXPECTED " + s.Failure.Message
}

// agnhost gives the nodes the image that the suite's pods use.
func agnhost(ctx context.Context, t *testing.T, l *lab.Lab, set toolchain.Set) {
	t.Helper()
	cache, err := toolchain.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	file, err := image.Builder{Debs: filepath.Join(cache, "debs")}.EnsureAgnhost(ctx, set.Bin, filepath.Join(set.Dir, "images"))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Cluster.ImportImage(ctx, file); err != nil {
		t.Fatal(err)
	}
}
