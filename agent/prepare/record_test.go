package prepare

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestTheRecordOfABareMachine(t *testing.T) {
	m := newMachine(t)
	m.etc("modules-load.d/iomesh.conf", "loop\n")
	if err := os.Chmod(filepath.Join(m.dir, "proc/1/root/etc/modules-load.d/iomesh.conf"), 0o644); err != nil { // whatever the umask
		t.Fatal(err)
	}
	m.execute(false)
	got := strings.NewReplacer(
		// who owns the test's files
		`"uid": `+strconv.Itoa(os.Getuid()), `"uid": 0`, `"gid": `+strconv.Itoa(os.Getgid()), `"gid": 0`).Replace(m.read("state/prepared.json"))
	want, err := os.ReadFile("testdata/prepared.json")
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the record's format has changed; a new version is needed:\n%s", got)
	}
}

func TestForeignRecordsAreRefused(t *testing.T) {
	for _, c := range []struct{ name, text, say string }{
		{"nothing", "", "decode"},
		{"half of one", `{"version":1,"entries":[{"step":"isc`, "decode"},
		{"a newer version", `{"version":2,"entries":[]}`, "rolled back"},
		{"a field that is not known", `{"version":1,"entries":[],"x":1}`, "unknown field"},
		{"a step that is not known", `{"version":1,"entries":[{"step":"shadow"}]}`, "no such step"},
		{"an empty entry", `{"version":1,"entries":[null]}`, "empty"},
		{"a step twice", `{"version":1,"entries":[{"step":"iscsid"},{"step":"iscsid"}]}`, "twice"},
		{"another unit", `{"version":1,"entries":[{"step":"iscsid","units":[{"name":"sshd.service"}]}]}`, "sshd"},
		{"another module", `{"version":1,"entries":[{"step":"iscsi-module","file":{},"modules":["ext4"]}]}`, "ext4"},
		{"no file", `{"version":1,"entries":[{"step":"multipath"}]}`, "file"},
		{"another directory", `{"version":1,"entries":[{"step":"multipath","file":{"made":["home"]}}]}`, "home"},
		{"a directory by a detour", `{"version":1,"entries":[{"step":"multipath","file":{"made":["etc/multipath/../multipath"]}}]}`, "does not hold"},
		{"a mode that runs as its owner", `{"version":1,"entries":[{"step":"multipath","file":{"before":{"mode":8388608}}}]}`, "mode"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := decodeRecord([]byte(c.text)); err == nil || !strings.Contains(err.Error(), c.say) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func FuzzDecodeRecord(f *testing.F) {
	b, err := os.ReadFile("testdata/prepared.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"version":1,"entries":[{"step":"iscsid"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord(b)
		if err != nil {
			return
		}
		for _, e := range r.Entries {
			if err := e.check(); err != nil || r.entry(e.Step) != e {
				t.Errorf("accepted %+v: %v", e, err)
			}
		}
	})
}

func FuzzBlacklisted(f *testing.F) {
	f.Add(multipathText)
	f.Add("}\n}\nblacklist{\n{\nvendor\n!")
	f.Fuzz(func(t *testing.T, text string) {
		blacklisted(text) // no panic
		if !blacklisted(string(wantMultipath(nil)) + text) {
			t.Error("our own text is not understood")
		}
	})
}
