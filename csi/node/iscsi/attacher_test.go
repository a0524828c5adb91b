package iscsi

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/iomesh/iomesh/csi/code"
	"github.com/iomesh/iomesh/csi/node"
)

const (
	volume    = "0b1c2d3e-1111-4222-8333-444455556666"
	iqn       = "iqn.2016-02.com.iomesh:" + volume
	initiator = "iqn.2016-02.com.iomesh:node:n1"
	secret    = "s3cret-s3cret-1"
)

// fakeHost is an iscsiadm and a kernel over a directory.
type fakeHost struct {
	t        *testing.T
	root     string // of host and sysfs
	calls    []string
	login    error // what Login returns
	silent   bool  // Login and Logout say nothing and do nothing, like a timed-out command
	serial   string
	holder   string
	noRecord bool
}

func (f *fakeHost) write(path, text string) {
	f.t.Helper()
	full := filepath.Join(f.root, path)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fakeHost) Iface(name string) error { f.calls = append(f.calls, "iface "+name); return nil }

const emptyRecord = `# BEGIN RECORD 2.1.8
node.name = %s
node.tpgt = -1
node.startup = automatic
iface.iscsi_ifacename = iomesh
node.session.auth.authmethod = CHAP
node.session.auth.username = old
node.session.auth.password = old-secret-here
node.session.auth.username_in = older
node.session.auth.password_in = older-secret
node.session.auth.chap_algs = MD5
# END RECORD
`

func (f *fakeHost) NewRecord(portal, target string) error {
	f.calls = append(f.calls, "new "+portal+" "+target)
	if !f.noRecord {
		f.write("etc/iscsi/nodes/"+target+"/127.0.0.1,3260", fmt.Sprintf(emptyRecord, target))
		// Another interface's record of the same target, made by an administrator.
		f.write("etc/iscsi/nodes/"+target+"/10.0.0.1,3260,1/default", strings.ReplaceAll(fmt.Sprintf(emptyRecord, target), "= iomesh", "= default"))
	}
	return nil
}

func (f *fakeHost) Login(portal, target string) error {
	f.calls = append(f.calls, "login "+portal+" "+target)
	if f.login != nil || f.silent {
		return f.login
	}
	f.kernelSession("session3", target, initiator, "LOGGED_IN")
	f.kernelDisk("session3", "sdq", 1, f.serial)
	return nil
}

func (f *fakeHost) kernelSession(name, target, ini, state string) {
	f.write("sys/class/iscsi_session/"+name+"/targetname", target+"\n")
	f.write("sys/class/iscsi_session/"+name+"/initiatorname", ini+"\n")
	f.write("sys/class/iscsi_session/"+name+"/state", state+"\n")
}

func (f *fakeHost) kernelDisk(name, sd string, lun int, serial string) {
	device := fmt.Sprintf("sys/class/iscsi_session/%s/device/target3:0:0/3:0:0:%d", name, lun)
	f.write(device+"/state", "running\n")
	f.write(device+"/vpd_pg80", string(append([]byte{0, 0x80, 0, byte(len(serial))}, serial...)))
	f.write(device+"/block/"+sd+"/size", "2097152\n")
	f.write(device+"/block/"+sd+"/dev", "65:0\n")
	if f.holder != "" {
		f.write(device+"/block/"+sd+"/holders/"+f.holder, "")
	}
	f.write("sys/block/"+sd+"/device/rescan", "")
	f.write("sys/block/"+sd+"/device/delete", "")
}

func (f *fakeHost) Logout(target string) error {
	f.calls = append(f.calls, "logout "+target)
	if f.silent {
		return nil
	}
	return os.RemoveAll(filepath.Join(f.root, "sys/class/iscsi_session/session3"))
}

func (f *fakeHost) Delete(target string) error {
	f.calls = append(f.calls, "delete "+target)
	return errors.New("iscsiadm: no records found") // and leaves the file
}

func newFake(t *testing.T) (*fakeHost, *Attacher) {
	f := &fakeHost{t: t, root: t.TempDir(), serial: strings.ReplaceAll(volume, "-", "")}
	return f, &Attacher{
		tool: f, sys: sysfs{filepath.Join(f.root, "sys")}, hostRoot: f.root, dev: "/dev", initiator: initiator,
		log: slog.New(slog.DiscardHandler), poll: time.Millisecond, sync: func(string) error { return nil },
	}
}

func target() node.Target {
	return node.Target{VolumeID: volume, IQN: iqn, LUN: 1, Portals: []string{"127.0.0.1:3260", "10.0.0.2:10202"}, Initiator: initiator, ChapUser: "user", ChapSecret: secret}
}

func (f *fakeHost) record() string {
	b, _ := os.ReadFile(filepath.Join(f.root, "etc/iscsi/nodes", iqn, "127.0.0.1,3260"))
	return string(b)
}

func TestAttachVerifiesTheDiskAndKeepsTheSecretOutOfCommands(t *testing.T) {
	f, a := newFake(t)
	d, err := a.Attach(t.Context(), target())
	if err != nil || d.Path != "/dev/sdq" || d.SizeBytes != 1<<30 || d.Trouble != "" {
		t.Fatalf("device %+v, %v", d, err)
	}
	if all := strings.Join(f.calls, "\n"); strings.Contains(all, secret) {
		t.Errorf("the secret is an argument: %s", all)
	}
	rec := f.record()
	for _, want := range []string{
		"node.session.auth.password = " + secret + "\n", "node.startup = manual\n", "node.session.timeo.replacement_timeout = 120\n",
		"node.conn[0].timeo.noop_out_timeout = 2\n", "node.conn[0].timeo.login_timeout = 5\n", "node.session.auth.chap_algs = MD5\n", "# END RECORD\n",
	} {
		if !strings.Contains(rec, want) {
			t.Errorf("the record lacks %q:\n%s", want, rec)
		}
	}
	if strings.Contains(rec, "old") || strings.Count(rec, "node.startup") != 1 {
		t.Errorf("old settings are left in the record:\n%s", rec)
	}
	other, _ := os.ReadFile(filepath.Join(f.root, "etc/iscsi/nodes", iqn, "10.0.0.1,3260,1/default"))
	if strings.Contains(string(other), secret) {
		t.Error("another interface's record was changed")
	}
	n := len(f.calls)
	if _, err := a.Attach(t.Context(), target()); err != nil || len(f.calls) != n {
		t.Errorf("attaching again: %v, calls %v", err, f.calls[n:])
	}
}

func TestWhatIscsiadmSaysIsNotBelieved(t *testing.T) {
	for _, tc := range []struct {
		name  string
		spoil func(*fakeHost)
		code  codes.Code
		text  string
	}{
		{"a login that timed out silently", func(f *fakeHost) { f.silent = true }, codes.Unavailable, "the kernel has no session"},
		{"a disk of another volume", func(f *fakeHost) { f.serial = "another-volume" }, codes.Internal, `serial number "another-volume"`},
		{"a disk that multipath holds", func(f *fakeHost) { f.holder = "dm-0" }, codes.FailedPrecondition, "multipath"},
		{"a refused secret", func(f *fakeHost) { f.login = errors.New("failed: exit status 24") }, codes.Unauthenticated, "refuses the CHAP secret"},
		{"an unreachable portal", func(f *fakeHost) { f.login = errors.New("connection refused") }, codes.Unavailable, "connection refused"},
		{"a record that was not made", func(f *fakeHost) { f.noRecord = true }, codes.Internal, "no node record"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f, a := newFake(t)
			tc.spoil(f)
			ctx, cancel := contextSoon(t)
			defer cancel()
			_, err := a.Attach(ctx, target())
			if code.Of(err) != tc.code || !strings.Contains(err.Error(), tc.text) || strings.Contains(err.Error(), secret) {
				t.Errorf("error %v (%v), want %v with %q and no secret", err, code.Of(err), tc.code, tc.text)
			}
		})
	}
}

func TestSessionsOfOthersAreNotOurs(t *testing.T) {
	f, a := newFake(t)
	f.kernelSession("session1", iqn, "iqn.1993-08.org.debian:01:host", "LOGGED_IN")
	f.kernelDisk("session1", "sda", 1, volume)
	if d, ok, _ := a.Find(t.Context(), volume); ok {
		t.Errorf("the host's own session was taken: %+v", d)
	}
	if err := a.Detach(t.Context(), volume); err != nil || len(f.calls) != 0 {
		t.Errorf("detach: %v, calls %v", err, f.calls)
	}
}

func TestDetachLeavesNeitherSessionNorSecret(t *testing.T) {
	f, a := newFake(t)
	if _, err := a.Attach(t.Context(), target()); err != nil {
		t.Fatal(err)
	}
	a.sync = func(string) error { return fmt.Errorf("open: %w", unix.EBUSY) }
	if err := a.Detach(t.Context(), volume); code.Of(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "sdq") {
		t.Errorf("detach of a mounted disk: %v", err)
	}
	a.sync = func(string) error { return nil }
	f.silent = true
	ctx, cancel := contextSoon(t)
	defer cancel()
	if err := a.Detach(ctx, volume); code.Of(err) != codes.Unavailable {
		t.Errorf("detach whose logout did nothing: %v", err)
	}
	f.silent = false
	if err := a.Detach(t.Context(), volume); err != nil {
		t.Fatal(err)
	}
	if rec := f.record(); rec != "" {
		t.Errorf("the record with the secret is left:\n%s", rec)
	}
	if err := a.Detach(t.Context(), volume); err != nil {
		t.Errorf("detach again: %v", err)
	}
}

func TestAFailedLoginsRecordIsRemovedByDetach(t *testing.T) {
	f, a := newFake(t)
	f.login = errors.New("connection refused")
	ctx, cancel := contextSoon(t)
	defer cancel()
	if _, err := a.Attach(ctx, target()); err == nil || f.record() == "" {
		t.Fatalf("attach: %v", err)
	}
	if err := a.Detach(t.Context(), volume); err != nil || f.record() != "" {
		t.Errorf("detach: %v; record:\n%s", err, f.record())
	}
}

func TestASecretThatWouldBreakTheRecordIsRefused(t *testing.T) {
	for _, bad := range []string{"abc\nnode.startup = automatic", " leading-space", "", "nul\x00nul"} {
		if b, err := edit([]byte(emptyRecord), []setting{{"node.session.auth.password", bad}}); err == nil {
			t.Errorf("%q was written: %s", bad, b)
		}
	}
}

func FuzzParseSerial(f *testing.F) {
	f.Add([]byte{0, 0x80, 0, 3, 'a', 'b', 'c'})
	f.Add([]byte{0, 0x80, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		if s := parseSerial(b); len(s) > len(b) {
			t.Errorf("%q from %d bytes", s, len(b))
		}
	})
}

func FuzzEdit(f *testing.F) {
	f.Add(emptyRecord, "value")
	f.Fuzz(func(t *testing.T, record, v string) {
		out, err := edit([]byte(record), []setting{{"node.session.auth.password", v}})
		if err == nil && value(out, "node.session.auth.password") != v {
			t.Errorf("%q became %q", v, value(out, "node.session.auth.password"))
		}
	})
}
