package toolchain

import (
	"os"
	"path/filepath"
	"testing"
)

func TestHashCoversEverythingThatDecidesTheResult(t *testing.T) {
	write := func(dir, file, text string) {
		t.Helper()
		p := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tree := func(change func(dir string)) string {
		dir := t.TempDir()
		write(dir, "go.mod", "module a")
		write(dir, "go.sum", "sums")
		write(dir, "containerd/go.mod", "module b")
		change(dir)
		return dir
	}
	hash := func(dir, version string) string {
		t.Helper()
		h, err := Hash(dir, version)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	base := hash(tree(func(string) {}), "go1.26.0")
	if again := hash(tree(func(string) {}), "go1.26.0"); again != base {
		t.Errorf("the same input in another directory: %s, want %s", again, base)
	}
	for name, got := range map[string]string{
		"another Go version":       hash(tree(func(string) {}), "go1.26.1"),
		"another pin":              hash(tree(func(d string) { write(d, "go.mod", "module c") }), "go1.26.0"),
		"another sum":              hash(tree(func(d string) { write(d, "go.sum", "others") }), "go1.26.0"),
		"another containerd":       hash(tree(func(d string) { write(d, "containerd/go.mod", "module d") }), "go1.26.0"),
		"another source file":      hash(tree(func(d string) { write(d, "pause/main.go", "package main") }), "go1.26.0"),
		"text moved between files": hash(tree(func(d string) { write(d, "go.mod", "module as"); write(d, "go.sum", "ums") }), "go1.26.0"),
	} {
		if got == base {
			t.Errorf("%s: the same hash", name)
		}
	}
}

func TestFreeBytesOfADirectoryNotMadeYet(t *testing.T) {
	dir := t.TempDir()
	here, err := FreeBytes(dir)
	if err != nil || here == 0 {
		t.Fatalf("%d, %v", here, err)
	}
	if _, err := FreeBytes(filepath.Join(dir, "not", "yet")); err != nil {
		t.Error(err)
	}
}

func TestFindSourceInThisCheckout(t *testing.T) {
	source, err := FindSource()
	if err != nil {
		t.Fatal(err)
	}
	if filepath.Base(source) != "tools" {
		t.Errorf("source %s", source)
	}
	t.Chdir(t.TempDir())
	if _, err := FindSource(); err == nil {
		t.Error("found a source outside any checkout")
	}
}
