package procstat

import (
	"os"
	"testing"
	"time"
)

func TestAStatLineIsReadWhateverTheNameIs(t *testing.T) {
	const rest = "S 1 2 2 0 -1 4194560 22 0 1 0 1234 56 0 0 20 0 9 0 100 1290000 12288 18446744073709551615 1 1 0"
	for _, name := range []string{"storaged", "a b", "x) (y", "kworker/0:1) S 1 2"} {
		u, err := parse("17 (" + name + ") " + rest)
		if err != nil || u.Parent != 1 || u.CPU != 12900*time.Millisecond || u.RSS != 12288*int64(os.Getpagesize()) {
			t.Errorf("%q: %+v, %v", name, u, err)
		}
	}
	for _, bad := range []string{"", "17", "17 (x) S 1 2", "17 (x) S 1 2 2 0 -1 4194560 22 0 1 0 a b 0 0 20 0 9 0 100 1290000 12288 0"} {
		if u, err := parse(bad); err == nil {
			t.Errorf("%q is taken for %+v", bad, u)
		}
	}
}

func TestThisProcess(t *testing.T) {
	u, err := Of(os.Getpid())
	if err != nil || u.RSS < 1<<20 || WakeUps(os.Getpid()) == 0 {
		t.Errorf("%+v, %d wake-ups, %v", u, WakeUps(os.Getpid()), err)
	}
	if _, err := Of(-1); err == nil {
		t.Error("a process that does not exist has used something")
	}
}
