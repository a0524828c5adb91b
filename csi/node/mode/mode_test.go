package mode

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

type host struct{ initiator, daemon, tool error }

func (h host) Initiator() error { return h.initiator }
func (h host) Daemon() error    { return h.daemon }
func (h host) Tool() error      { return h.tool }

func TestDecide(t *testing.T) {
	no := errors.New("iscsid does not run")
	for _, tc := range []struct {
		name   string
		wish   Mode
		host   host
		want   Mode
		reason string
	}{
		{"auto takes the kernel where everything is there", Auto, host{}, ISCSI, "the host has"},
		{"auto takes userspace where one thing is missing, and names it", Auto, host{daemon: no}, Userspace, "iscsid does not run"},
		{"a wish for userspace is followed", Userspace, host{}, Userspace, "configured"},
		{"a wish for iscsi is followed though it cannot work, and says so", Auto + "", host{initiator: no, daemon: no, tool: no}, Userspace, "; "},
		{"iscsi is never replaced silently", ISCSI, host{tool: no}, ISCSI, "cannot be attached"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := Decide(tc.wish, tc.host)
			if d.Mode != tc.want || !strings.Contains(d.Reason, tc.reason) || len(d.Checked) != 3 {
				t.Errorf("%+v, want %s because of %q", d, tc.want, tc.reason)
			}
		})
	}
}

func TestTheDecisionIsPublishedInAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "csi", "attach-mode.json")
	want := Decide(Userspace, host{})
	if err := want.Write(path); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got Decision
	if err := json.Unmarshal(b, &got); err != nil || got.Mode != Userspace || got.Reason != want.Reason {
		t.Errorf("%s, %v", b, err)
	}
}

func TestLinuxAnswersOnThisHost(t *testing.T) {
	l := Linux{Root: "/"}
	for what, err := range map[string]error{"initiator": l.Initiator(), "daemon": l.Daemon(), "tool": l.Tool()} {
		if err != nil && strings.TrimSpace(err.Error()) == "" {
			t.Errorf("%s: an empty reason", what)
		}
		t.Logf("%s: %v", what, err)
	}
}
