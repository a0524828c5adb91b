package daemon_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	attachv1 "github.com/iomesh/iomesh/attach/api/v1"
	"github.com/iomesh/iomesh/attach/attachtest"
	"github.com/iomesh/iomesh/attach/daemon"
)

// childEnv makes the test binary a daemon that attaches one volume and waits to be killed: "state dir|store dir".
const childEnv = "IOMESH_ATTACH_TEST_CHILD"

func TestMain(m *testing.M) {
	if dirs := os.Getenv(childEnv); dirs != "" {
		child(dirs)
		return
	}
	os.Exit(m.Run())
}

func child(dirs string) {
	state, store, _ := strings.Cut(dirs, "|")
	d, err := daemon.New(context.Background(), daemon.Options{Dir: state, Dialer: attachtest.NewStore(store), Log: slog.Default()})
	if err != nil {
		fmt.Println("error", err)
		return
	}
	a, err := daemon.Server{Daemon: d}.Attach(context.Background(), request())
	if err != nil {
		fmt.Println("error", err)
		return
	}
	fmt.Println(a.Device)
	select {}
}

// startAndKill runs a daemon that attaches the volume, calls use with its device, and kills it.
func startAndKill(t *testing.T, state, store string, use func(device string)) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+state+"|"+store)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err == nil && strings.HasPrefix(line, "/dev/loop") {
		use(strings.TrimSpace(line))
	} else {
		t.Errorf("child said %q, %v", line, err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

func TestAKilledDaemonWhoseDeviceNobodyUsesLeavesNothing(t *testing.T) {
	needDevices(t)
	r := &rig{t: t, store: attachtest.NewStore(t.TempDir()), dir: filepath.Join(t.TempDir(), "attach")}
	if err := r.store.Create(targetIQN, 64*mib); err != nil {
		t.Fatal(err)
	}
	startAndKill(t, r.dir, filepath.Dir(r.store.Path(targetIQN)), func(string) {})
	r.start()
	list, _ := r.srv.List(t.Context(), &attachv1.ListRequest{})
	if len(list.Attachments) != 0 {
		t.Errorf("list after restart: %v, want none", list)
	}
	r.nothingLeft()
}

func TestAKilledDaemonWhoseDeviceIsMountedIsReportedAndClearedLater(t *testing.T) {
	needDevices(t)
	r := &rig{t: t, store: attachtest.NewStore(t.TempDir()), dir: filepath.Join(t.TempDir(), "attach")}
	if err := r.store.Create(targetIQN, 64*mib); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var device string
	startAndKill(t, r.dir, filepath.Dir(r.store.Path(targetIQN)), func(d string) {
		device = d
		run(t, "mkfs.ext4", "-q", d)
		run(t, "mount", d, dir)
	})
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	// The I/O of the orphan fails at once instead of hanging.
	if err := os.WriteFile(filepath.Join(dir, "x"), make([]byte, mib), 0o600); err == nil {
		if f, err := os.Open(filepath.Join(dir, "x")); err == nil {
			if f.Sync() == nil {
				t.Error("fsync on a device whose server was killed succeeded")
			}
			f.Close()
		}
	}

	r.start()
	list, _ := r.srv.List(t.Context(), &attachv1.ListRequest{})
	if len(list.Attachments) != 1 || list.Attachments[0].State != attachv1.State_STATE_BROKEN || list.Attachments[0].Device != device {
		t.Fatalf("list after restart: %v, want %s as broken", list, device)
	}
	_, err := r.srv.Detach(t.Context(), &attachv1.DetachRequest{VolumeId: "v1"})
	wantCode(t, err, codes.FailedPrecondition)

	// A new attachment beside the orphan works, so that a restarted pod does not have to wait for it.
	a := r.attach(request())
	if a.Device == device {
		t.Errorf("the new attachment got the orphan's device %s", device)
	}
	if err := unix.Unmount(dir, 0); err != nil {
		t.Fatal(err)
	}
	r.detach()
	r.nothingLeft()
}
