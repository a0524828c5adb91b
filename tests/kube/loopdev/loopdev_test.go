package loopdev

import (
	"reflect"
	"testing"
)

func TestSelectTakesWhatIsOwnedAndWhatIsStackedOnIt(t *testing.T) {
	devices := []Device{
		// kubelet's lock over loop2, listed before it
		{Path: "/dev/loop1", Number: 1, Known: true, Backing: FileID{5, 900}, BackingDevice: 2},
		{Path: "/dev/loop2", Number: 2, Known: true, Backing: FileID{77, 1}},
		{Path: "/dev/loop3", Number: 3, Known: true, Backing: FileID{5, 901}, BackingDevice: 4},
		{Path: "/dev/loop4", Number: 4, Known: true, Backing: FileID{1, 10}},
	}
	var got []string
	for _, d := range Select(devices, func(d Device) bool { return d.Backing.Dev == 77 }) {
		got = append(got, d.Path)
	}
	if want := []string{"/dev/loop1", "/dev/loop2"}; !reflect.DeepEqual(got, want) {
		t.Errorf("selected %v, want %v", got, want)
	}
}

func TestSelectOfNothingIsNothing(t *testing.T) {
	// A regular file has BackingDevice 0, which must not read as stacked on
	// a device of number 0.
	devices := []Device{{Path: "/dev/loop0", Number: 0, Known: true}, {Path: "/dev/loop1", Number: 1, Known: true}}
	got := Select(devices, func(d Device) bool { return d.Path == "/dev/loop0" })
	if len(got) != 1 || got[0].Path != "/dev/loop0" {
		t.Errorf("selected %v", got)
	}
}
