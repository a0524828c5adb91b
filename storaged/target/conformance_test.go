package target_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/target"
	"github.com/iomesh/iomesh/storaged/target/conformance"
	"github.com/iomesh/iomesh/storaged/target/memvolume"
)

// defective names tests of libiscsi 1.19 that are wrong about a unit with 512 byte logical and 4096 byte physical blocks, with
// what they get wrong. They are run against a unit with 512 byte physical blocks instead, and must pass there.
var defective = map[string]string{
	"GetLBAStatus.UnmapSingle": "asks for LBA i+1 and expects the descriptor to begin at i plus one physical block",
}

func TestLibiscsiSuitePasses(t *testing.T) {
	if testing.Short() {
		t.Skip("runs an external test suite")
	}
	r := newRig(t, target.Options{})
	r.vol.LendReads() // as the replicated volume does
	second, err := newListener(r.srv, t)
	if err != nil {
		t.Fatal(err)
	}
	url := func(address string) string { return "iscsi://" + address + "/" + r.iqn + "/1" }
	report, err := conformance.Run(t.Context(), conformance.Options{URL: url(r.address), SecondURL: url(second)})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range report.Failed() {
		if defective[f.Name] == "" {
			t.Errorf("%s failed: %s", f.Name, strings.Join(f.Said, " | "))
		}
	}
	if len(report.Tests) < 230 {
		t.Errorf("only %d tests were run", len(report.Tests))
	}
	documented, err := os.ReadFile("../../docs/iscsi-conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range report.Skipped() {
		if !strings.Contains(string(documented), "`"+s.Name+"`") {
			t.Errorf("%s skipped something and docs/iscsi-conformance.md does not say why: %s", s.Name, strings.Join(s.Said, " | "))
		}
	}
	t.Logf("%d tests, %d failed, %d skipped something", len(report.Tests), len(report.Failed()), len(report.Skipped()))
}

func TestLibiscsiTestsThatMisreadLargePhysicalBlocksPassWithSmallOnes(t *testing.T) {
	r := newRig(t, target.Options{})
	id := block.NewVolumeID()
	vol := memvolume.New(id, 64<<20)
	vol.Physical512()
	iqn := r.dir.Serve(id, vol, target.Grant{})
	for name := range defective {
		report, err := conformance.Run(r.ctx(), conformance.Options{URL: "iscsi://" + r.address + "/" + iqn + "/1", Tests: "ALL." + name})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range report.Failed() {
			t.Errorf("%s failed: %s", f.Name, strings.Join(f.Said, " | "))
		}
		if len(report.Skipped()) > 0 {
			t.Errorf("%s skipped", name)
		}
	}
}

func TestLibiscsiReadOnlyTestsPassOnAReadOnlyGrant(t *testing.T) {
	r := newRig(t, target.Options{})
	r.dir.Serve(r.id, r.vol, target.Grant{ReadOnly: true})
	report, err := conformance.Run(r.ctx(), conformance.Options{URL: "iscsi://" + r.address + "/" + r.iqn + "/1", Tests: "ALL.ReadOnly"})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range report.Failed() {
		t.Errorf("%s failed: %s", f.Name, strings.Join(f.Said, " | "))
	}
	if len(report.Skipped()) > 0 {
		t.Error("skipped")
	}
}

func tool(t *testing.T, name, debianPackage string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is missing: install the Debian package %s", name, debianPackage)
	}
	return path
}

func run(t *testing.T, path string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(bounded(t), path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", filepath.Base(path), err, out)
	}
	return string(out)
}

func TestDebianToolsSeeTheUnit(t *testing.T) {
	r := newRig(t, target.Options{})
	out := run(t, tool(t, "iscsi-ls", "libiscsi-bin"), "-s", "iscsi://"+r.address)
	if !strings.Contains(out, r.iqn) || !strings.Contains(out, "Lun:1") {
		t.Errorf("iscsi-ls -s says:\n%s", out)
	}
	out = run(t, tool(t, "iscsi-inq", "libiscsi-bin"), "iscsi://"+r.address+"/"+r.iqn+"/1")
	if !strings.Contains(out, "Vendor:IOMESH") || !strings.Contains(out, "Product:VOLUME") {
		t.Errorf("iscsi-inq says:\n%s", out)
	}
}

func TestQemuWritesReadsAndCompares(t *testing.T) {
	qemuIO, qemuImg := tool(t, "qemu-io", "qemu-utils"), tool(t, "qemu-img", "qemu-utils")
	if !strings.Contains(run(t, qemuImg, "--help"), "iscsi") {
		if m, _ := filepath.Glob("/usr/lib/*/qemu/block-iscsi.so"); len(m) == 0 {
			t.Fatal("qemu has no iscsi driver: install the Debian package qemu-block-extra")
		}
	}
	for _, c := range []struct {
		name, user, digest string
		chap               *target.CHAP
	}{
		{"plain", "", "none", nil},
		{"digests", "", "crc32c", nil},
		{"CHAP and digests", "u", "crc32c", &target.CHAP{User: "u", Secret: "secretsecret"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, target.Options{})
			r.dir.Serve(r.id, r.vol, target.Grant{CHAP: c.chap})
			image := "driver=iscsi,transport=tcp,portal=" + r.address + ",target=" + r.iqn + ",lun=1,header-digest=" + c.digest
			extra := []string{}
			if c.chap != nil {
				secret := filepath.Join(t.TempDir(), "secret")
				if err := os.WriteFile(secret, []byte(c.chap.Secret), 0o600); err != nil {
					t.Fatal(err)
				}
				extra = []string{"--object", "secret,id=s,file=" + secret}
				image += ",user=" + c.user + ",password-secret=s"
			}
			args := append(extra, "--image-opts", image)
			run(t, qemuIO, append([]string{"-c", "write -P 7 0 8M", "-c", "write -P 9 1536 512", "-c", "discard 4M 1M", "-c", "write -z 6M 64k",
				"-c", "flush", "-c", "read -P 9 1536 512", "-c", "read -P 0 4M 1M", "-c", "read -P 0 6M 64k", "-c", "read -P 7 7M 1M"}, args...)...)
			file := filepath.Join(t.TempDir(), "image")
			run(t, qemuImg, append(append([]string{"convert"}, extra...), "--image-opts", image, "-O", "raw", file)...)
			local := "driver=raw,file.filename=" + file
			run(t, qemuImg, append(append([]string{"compare"}, extra...), "--image-opts", image, local)...)
		})
	}
}
