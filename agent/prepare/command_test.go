package prepare

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// asNsenter puts a program in the place of nsenter.
func asNsenter(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "nsenter"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	t.Setenv("SECRET", "of the container")
}

func TestProgramsRunInTheNamespacesOfTheFirstProcess(t *testing.T) {
	asNsenter(t, `for a; do echo "[$a]"; done; echo "$SECRET$PATH$LC_ALL"`)
	out, err := namespaces{proc: "/host/proc"}.Run(context.Background(), []string{"/usr/bin/systemctl", "start", "a b; $(c)"})
	if err != nil {
		t.Fatal(err)
	}
	want := "[--mount=/host/proc/1/ns/mnt]\n[--net=/host/proc/1/ns/net]\n[--]\n[/usr/bin/systemctl]\n[start]\n[a b; $(c)]\n/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/binC\n"
	if string(out) != want {
		t.Errorf("%s", out)
	}
}

func TestAnErrorSaysWhatTheProgramSaid(t *testing.T) {
	asNsenter(t, `echo out; echo "Failed to start: Unit
masked" >&2; exit 5`)
	out, err := namespaces{proc: "/proc"}.Run(context.Background(), []string{"/bin/systemctl", "start", "x"})
	if err == nil || err.Error() != "/bin/systemctl start x: exit status 5: Failed to start: Unit masked" || out != nil {
		t.Errorf("%q, error %v", out, err)
	}
}

func TestEndlessOutputIsCutOff(t *testing.T) {
	asNsenter(t, `while echo 0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789; do :; done`)
	_, err := namespaces{proc: "/proc"}.Run(context.Background(), []string{"/bin/x"})
	if err == nil || !strings.HasPrefix(err.Error(), "/bin/x: ") {
		t.Errorf("error %v", err)
	}
}
