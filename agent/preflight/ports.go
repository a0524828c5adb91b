package preflight

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// ownPorts are the ports of the daemons and the programs that may have them.
var ownPorts = []struct {
	port uint16
	use  string
}{
	{3260, "iSCSI redirector"}, {10100, "meta"}, {10101, "meta's etcd"}, {10102, "meta's etcd peers"}, {10103, "meta's metrics"},
	{10200, "chunk control"}, {10201, "chunk replica traffic"}, {10202, "chunk iSCSI"}, {10203, "chunk metrics"},
	{10303, "redirector metrics"}, {10403, "agent metrics"},
}

var ownPrograms = map[string]bool{"storaged": true, "iomesh-agent": true, "iomesh-csi": true, "iomesh": true}

// ports reports ports that somebody else listens on.
func ports(o Options) []Finding {
	listening := map[uint16]string{} // port -> inode of the socket
	for _, file := range []string{"net/tcp", "net/tcp6"} {
		b, err := os.ReadFile(o.Machine.Proc(file))
		if err != nil {
			continue
		}
		for _, line := range strings.Split(string(b), "\n") {
			f := strings.Fields(line) // sl local_address rem_address st … inode is field 9 (proc(5))
			if len(f) < 10 || f[3] != "0A" {
				continue
			}
			_, hex, _ := strings.Cut(f[1], ":")
			if port, err := strconv.ParseUint(hex, 16, 16); err == nil {
				listening[uint16(port)] = f[9]
			}
		}
	}
	var taken []string
	for _, p := range ownPorts {
		inode, ok := listening[p.port]
		if !ok {
			continue
		}
		program := socketOwner(o, inode)
		if !ownPrograms[program] {
			if program == "" {
				program = "an unknown process"
			}
			taken = append(taken, fmt.Sprintf("%d (%s) by %s", p.port, p.use, program))
		}
	}
	if len(taken) > 0 {
		return one("ports", Failed, "in use: "+strings.Join(taken, ", "), "stop what listens there, or move it to other ports")
	}
	return one("ports", OK, "all free or ours", "")
}

// socketOwner returns the command name of the process that has the socket open, "" when it is not found.
func socketOwner(o Options, inode string) string {
	want := "socket:[" + inode + "]"
	links, err := filepath.Glob(o.Machine.Proc("[0-9]*/fd/*"))
	if err != nil {
		return ""
	}
	for _, l := range links {
		if target, err := os.Readlink(l); err == nil && target == want {
			comm, err := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(l)), "comm"))
			if err != nil {
				return ""
			}
			return strings.TrimSpace(string(comm))
		}
	}
	return ""
}
