package host

import (
	"os"
	"path"
	"strings"
)

// programDirs is where programs of a machine are looked for.
var programDirs = []string{"/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin", "/opt/bin"}

// Program returns where the machine with this root directory has a program, "" when it has not. Links are followed as the machine would
// follow them: Debian's modprobe is one to /bin/kmod, which the agent's container does not have.
func Program(root *os.Root, name string) string {
	for _, dir := range programDirs {
		p := path.Join(dir, name)
		if st, err := root.Lstat(Follow(root, p)); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return p
		}
	}
	return ""
}

// linksMax is how many symbolic links are followed in one path, as the kernel does.
const linksMax = 40

// Follow follows the symbolic links in a path of a machine, absolute ones from its root directory, and returns what they lead to, relative to that
// directory. A path that leads nowhere is returned as far as it goes.
func Follow(root *os.Root, p string) string {
	split := func(p string) []string { return strings.Split(strings.TrimPrefix(path.Clean(p), "/"), "/") }
	done, rest, links := "", split(p), 0
	for len(rest) > 0 {
		next := path.Join(done, rest[0])
		rest = rest[1:]
		target, err := root.Readlink(next)
		if err != nil {
			done = next
			continue
		}
		if links++; links > linksMax {
			return next
		}
		if !path.IsAbs(target) {
			target = path.Join("/", done, target) // .. of the root is the root
		}
		done, rest = "", append(split(target), rest...)
	}
	return done
}

// Binary returns where the machine has a program, "" when it has not.
func (m Machine) Binary(name string) string {
	root, err := os.OpenRoot(m.Root("/"))
	if err != nil {
		return ""
	}
	defer root.Close()
	return Program(root, name)
}

// Resolve is where a path of the machine is seen from here, with its links followed as the machine would follow them: Root alone leaves that to
// the kernel, for which an absolute link begins at the root directory of this process.
func (m Machine) Resolve(p string) string {
	root, err := os.OpenRoot(m.Root("/"))
	if err != nil {
		return m.Root(p)
	}
	defer root.Close()
	return m.Root(Follow(root, p))
}
