package calm

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func slacks(t *testing.T) (out []string) {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, th := range threads {
		raw, err := os.ReadFile("/proc/" + th.Name() + "/timerslack_ns")
		if errors.Is(err, syscall.EPERM) || errors.Is(err, os.ErrPermission) {
			t.Skip("CAP_SYS_NICE is missing")
		}
		if err == nil {
			out = append(out, strings.TrimSpace(string(raw)))
		}
	}
	return out
}

func TestAllThreadsGetSlackAndLoseIt(t *testing.T) {
	slacks(t)
	for d, want := range map[time.Duration]string{Slack: "4000000", Working: "1000000"} {
		if err := slackOfThreads(d); err != nil {
			t.Fatal(err)
		}
		for _, got := range slacks(t) {
			if got != want {
				t.Errorf("slack of a thread is %s ns, want %s", got, want)
			}
		}
	}
	if err := slackOfThreads(50 * time.Microsecond); err != nil {
		t.Fatal(err)
	}
}

// The program starts again once, in the same process, and has the slack then.
func TestExecGivesSlackFromTheBeginning(t *testing.T) {
	if os.Getenv("CALM_TEST_EXEC") != "" {
		if err := Exec(Slack); err != nil {
			t.Fatal(err)
		}
		ns, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("slack %d", ns)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^TestExecGivesSlackFromTheBeginning$", "-test.v")
	cmd.Env = append(os.Environ(), "CALM_TEST_EXEC=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "slack 4000000") {
		t.Fatalf("%v\n%s", err, out)
	}
}
