package image

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"path"
	"strings"
)

// opened are libraries that the C library loads by name when it needs them,
// so that no program's header lists them: libgcc_s for thread cancellation.
var opened = []string{"libgcc_s.so.1"}

// link takes from libraries what the programs in l link to, directly or not.
func (l *Layer) link(libraries *Layer) error {
	byName := map[string]string{}
	for _, p := range libraries.paths() {
		e := libraries.entries[p]
		if strings.HasPrefix(p, "usr/lib") && strings.Contains(path.Base(p), ".so") && e.kind != tar.TypeDir {
			if _, ok := byName[path.Base(p)]; !ok {
				byName[path.Base(p)] = p
			}
		}
	}
	type need struct{ name, by string }
	var todo []need
	for _, p := range l.paths() {
		names, err := l.entries[p].needs()
		if err != nil {
			return fmt.Errorf("read %s: %w", p, err)
		}
		for _, n := range names {
			todo = append(todo, need{n, p})
		}
	}
	if len(todo) == 0 {
		return nil // static programs only
	}
	for _, n := range opened {
		todo = append(todo, need{n, "the C library"})
	}
	for len(todo) > 0 {
		n := todo[0]
		todo = todo[1:]
		p, ok := byName[n.name]
		if path.IsAbs(n.name) {
			p = clean(n.name)
			ok = libraries.Has(p)
		}
		if !ok {
			return fmt.Errorf("%s needs the library %s, which is in none of its packages", n.by, n.name)
		}
		for !l.Has(p) {
			e := libraries.entries[p]
			l.put(p, e)
			if e.kind == tar.TypeSymlink {
				target := e.target
				if !path.IsAbs(target) {
					target = path.Join(path.Dir(p), target)
				}
				if p = clean(target); !libraries.Has(p) {
					return fmt.Errorf("library link %s leads to %s, which is missing", n.name, p)
				}
				continue
			}
			names, err := e.needs()
			if err != nil {
				return fmt.Errorf("read %s: %w", p, err)
			}
			for _, name := range names {
				todo = append(todo, need{name, p})
			}
		}
	}
	return nil
}

// needs returns what an ELF file names: its shared libraries by file name, its
// program loader by absolute path. Other files need none.
func (e entry) needs() ([]string, error) {
	if e.kind != tar.TypeReg || e.source != "" || !bytes.HasPrefix(e.data, []byte(elf.ELFMAG)) {
		return nil, nil
	}
	f, err := elf.NewFile(bytes.NewReader(e.data))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.ImportedLibraries()
	if err != nil && !errors.Is(err, elf.ErrNoSymbols) {
		return nil, err
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			b := make([]byte, p.Filesz)
			if _, err := p.ReadAt(b, 0); err != nil {
				return nil, err
			}
			names = append(names, strings.TrimRight(string(b), "\x00"))
		}
	}
	return names, nil
}
