package prepare

import (
	"slices"
	"strings"
)

// initiators is how the initiator's programs are installed, by the ID of os-release(5).
var initiators = []struct {
	ids []string
	how string
}{
	{[]string{"debian", "ubuntu"}, "install the package open-iscsi: apt-get install open-iscsi"},
	{[]string{"rhel", "fedora", "centos", "amzn"}, "install the package iscsi-initiator-utils: dnf install iscsi-initiator-utils"},
	{[]string{"suse", "opensuse", "sles"}, "install the package open-iscsi: zypper install open-iscsi"},
	{[]string{"arch"}, "install the package open-iscsi: pacman -S open-iscsi"},
	{[]string{"alpine"}, "install the package open-iscsi: apk add open-iscsi"},
	{[]string{"openeuler", "anolis", "kylin"}, "install the package open-iscsi: dnf install open-iscsi"},
	{[]string{"talos"}, "add the system extension iscsi-tools to the machine's image"},
}

// howToInstall says how this machine gets the initiator's programs.
func (r *run) howToInstall() string {
	ids := r.distribution()
	for _, id := range ids { // its own, then those that it is like
		for _, d := range initiators {
			if slices.Contains(d.ids, id) {
				return d.how
			}
		}
	}
	const both = "install the package open-iscsi (Debian, SUSE) or iscsi-initiator-utils (Red Hat)"
	if len(ids) == 0 {
		return both
	}
	return both + ", or what " + ids[0] + " calls it"
}

// distribution returns ID and ID_LIKE of os-release(5), nothing if it says nothing.
func (r *run) distribution() []string {
	var id, like []string
	for _, name := range []string{"etc/os-release", "usr/lib/os-release"} {
		b, err := readMax(r.root, name, fileMax)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			fields := strings.Fields(strings.ToLower(strings.Trim(value, `"'`)))
			switch key {
			case "ID":
				id = fields
			case "ID_LIKE":
				like = fields
			}
		}
		break
	}
	return append(id, like...)
}
