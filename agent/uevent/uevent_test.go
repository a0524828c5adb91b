package uevent

import "testing"

func TestOnlyBlockDevicesAreHeard(t *testing.T) {
	for _, c := range []struct {
		name    string
		message string
		want    bool
	}{
		{"a disk appears", "add@/devices/pci/sdb\x00ACTION=add\x00DEVPATH=/devices/pci/sdb\x00SUBSYSTEM=block\x00DEVNAME=sdb\x00", true},
		{"a network card", "add@/devices/eth0\x00ACTION=add\x00SUBSYSTEM=net\x00", false},
		{"a value that looks like it", "add@/x\x00NAME=SUBSYSTEM=block\x00", false},
		{"nothing", "", false},
	} {
		if got := IsBlock([]byte(c.message)); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
