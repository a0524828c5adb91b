package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// sample builds a layer; order says in which order the files are added.
func sample(t *testing.T, order []string, stamp time.Time) *Layer {
	t.Helper()
	l := NewLayer()
	dir := t.TempDir()
	for _, name := range order {
		src := filepath.Join(dir, filepath.Base(name))
		if err := os.WriteFile(src, []byte("content of "+name), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(src, stamp, stamp); err != nil {
			t.Fatal(err)
		}
		if err := l.File(name, 0o755, src); err != nil {
			t.Fatal(err)
		}
	}
	l.Symlink("bin/sh", "busybox")
	return l
}

func TestSameInputGivesSameBytes(t *testing.T) {
	names := []string{"usr/local/bin/storaged", "usr/local/bin/iomesh-csi", "opt/x"}
	reversed := []string{names[2], names[1], names[0]}
	var images [][]byte
	for i, order := range [][]string{names, reversed} {
		out := filepath.Join(t.TempDir(), "image.tar")
		img := Image{Ref: "iomesh/iomesh:t", Layer: sample(t, order, time.Unix(int64(1000*i), 0))}
		if err := img.Write(out); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		images = append(images, b)
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("order of adding or file dates show in the image")
	}
}

func TestArchiveIsWhatContainerdReads(t *testing.T) {
	out := filepath.Join(t.TempDir(), "image.tar")
	img := Image{Ref: "r/a:1", Aliases: []string{"r/b:2"}, Entrypoint: []string{"/pause"}, Layer: sample(t, []string{"pause"}, time.Now())}
	if err := img.Write(out); err != nil {
		t.Fatal(err)
	}
	members := readTar(t, out)
	var manifest []manifestRow
	if err := json.Unmarshal(members["manifest.json"], &manifest); err != nil {
		t.Fatal(err)
	}
	if len(manifest) != 1 || strings.Join(manifest[0].RepoTags, " ") != "r/a:1 r/b:2" {
		t.Fatalf("manifest %+v", manifest)
	}
	configBytes := members[manifest[0].Config]
	sum := sha256.Sum256(configBytes)
	if manifest[0].Config != hex.EncodeToString(sum[:])+".json" {
		t.Errorf("configuration is called %s", manifest[0].Config)
	}
	var config configFile
	if err := json.Unmarshal(configBytes, &config); err != nil {
		t.Fatal(err)
	}
	layer := sha256.Sum256(members[manifest[0].Layers[0]])
	if got := config.RootFS.DiffIDs; len(got) != 1 || got[0] != "sha256:"+hex.EncodeToString(layer[:]) {
		t.Errorf("diff ids %v", got)
	}
	if len(config.Config.Entrypoint) != 1 || config.Config.Entrypoint[0] != "/pause" {
		t.Errorf("entry point %v", config.Config.Entrypoint)
	}
}

func readTar(t *testing.T, file string) map[string][]byte {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	members := map[string][]byte{}
	tr := tar.NewReader(f)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return members
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || !h.ModTime.Equal(epoch) {
			t.Errorf("%s: owner %d:%d, date %s", h.Name, h.Uid, h.Gid, h.ModTime)
		}
		if members[h.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPackagesAreMergedIntoUsr(t *testing.T) {
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	add := func(h *tar.Header, data string) {
		t.Helper()
		h.Size = int64(len(data))
		if err := tw.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	add(&tar.Header{Name: "./bin/", Typeflag: tar.TypeDir, Mode: 0o755}, "")
	add(&tar.Header{Name: "./bin/mount", Typeflag: tar.TypeReg, Mode: 0o4755, Uid: 7}, "program")
	add(&tar.Header{Name: "./sbin/mke2fs", Typeflag: tar.TypeReg, Mode: 0o755}, "mke2fs")
	add(&tar.Header{Name: "./sbin/mkfs.ext4", Typeflag: tar.TypeLink, Linkname: "./sbin/mke2fs"}, "")
	add(&tar.Header{Name: "../../evil", Typeflag: tar.TypeReg, Mode: 0o755}, "x")
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	l := NewLayer()
	if err := l.tarball(&b); err != nil {
		t.Fatal(err)
	}
	if e := l.entries["bin"]; e.kind != tar.TypeSymlink || e.target != "usr/bin" {
		t.Errorf("bin became %+v", e)
	}
	if e := l.entries["usr/bin/mount"]; string(e.data) != "program" || e.mode != 0o4755 {
		t.Errorf("mount is %+v", e)
	}
	if e := l.entries["usr/sbin/mkfs.ext4"]; e.kind != tar.TypeReg || string(e.data) != "mke2fs" {
		t.Errorf("a hard link became %+v", e)
	}
	for p := range l.entries {
		if strings.Contains(p, "..") {
			t.Errorf("path %q leaves the root", p)
		}
	}
}

func TestParseURIs(t *testing.T) {
	debs, err := parseURIs("Reading package lists...\n" +
		"'http://deb.example/l/libc6_2.36_amd64.deb' libc6_2.36_amd64.deb 2760000 MD5Sum:x\n" +
		"'http://deb.example/b/busybox_1%3a1.35_amd64.deb' busybox_1%3a1.35_amd64.deb 452120 \n")
	if err != nil {
		t.Fatal(err)
	}
	want := []deb{{"busybox", "busybox_1%3a1.35_amd64.deb", 452120}, {"libc6", "libc6_2.36_amd64.deb", 2760000}}
	if len(debs) != 2 || debs[0] != want[0] || debs[1] != want[1] {
		t.Errorf("got %v, want %v", debs, want)
	}
	for _, bad := range []string{"'u' file\n", "'u' a_1.deb many\n", "'u' ../a_1.deb 5\n", "'u' nounderscore 5\n"} {
		if _, err := parseURIs(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestIOMeshTakesOurProgramsOnly(t *testing.T) {
	bin := t.TempDir()
	b := Builder{Debs: t.TempDir()}
	if _, err := b.IOMesh(t.Context(), bin, "t", nil); err == nil || !strings.Contains(err.Error(), "build them first") {
		t.Errorf("empty directory: %v", err)
	}
	if _, err := b.IOMesh(t.Context(), bin, "t", []string{"storaged"}); err == nil || !strings.Contains(err.Error(), "storaged") {
		t.Errorf("required and missing: %v", err)
	}
	if _, err := b.IOMesh(t.Context(), bin, "t", []string{"bash"}); err == nil || !strings.Contains(err.Error(), "none of ours") {
		t.Errorf("required and not ours: %v", err)
	}
}

func TestTheDockerfileInstallsTheSamePackages(t *testing.T) {
	b, err := os.ReadFile("../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range append([]string{"tests/image/packages.txt"}, programs...) {
		if !strings.Contains(string(b), want) {
			t.Errorf("Dockerfile does not mention %s", want)
		}
	}
}

func FuzzTarball(f *testing.F) {
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	_ = tw.WriteHeader(&tar.Header{Name: "./bin/x", Typeflag: tar.TypeReg, Size: 1})
	_, _ = tw.Write([]byte("y"))
	_ = tw.Close()
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, stream []byte) {
		l := NewLayer()
		if l.tarball(bytes.NewReader(stream)) != nil {
			return
		}
		for p := range l.entries {
			if p == "" || strings.HasPrefix(p, "/") || strings.HasPrefix(p, "../") {
				t.Errorf("path %q leaves the root", p)
			}
		}
	})
}
