package prepare

import (
	"fmt"
	"testing"
)

// variants are machines whose runs have different changes.
var variants = map[string]func(*machine){
	"bare": func(*machine) {},
	"with files there": func(m *machine) {
		m.etc("modules-load.d/iomesh.conf", "loop\n")
		m.etc("multipath/conf.d/iomesh.conf", "# mine\n")
		m.inForce = m.multipathConfig()
	},
	"enabled, dead, without multipath": func(m *machine) {
		m.remove("proc/300")
		m.units["iscsid.service"].File = "enabled"
	},
}

// TestKilledBeforeEachChange kills a run before each change of the machine and of the record, and goes on in each way that somebody may.
func TestKilledBeforeEachChange(t *testing.T) {
	for name, build := range variants {
		reference := newMachine(t)
		build(reference)
		reference.execute(false)
		want := reference.picture()
		for _, first := range []bool{false, true} { // to undo?
			for _, second := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, killed undo %v, then undo %v", name, first, second), func(t *testing.T) {
					for n := 0; ; n++ {
						m := newMachine(t)
						build(m)
						before := m.picture()
						if first {
							m.execute(false)
						}
						died := m.executeKilledAt(n, first)
						if !died && n < 4 {
							t.Fatalf("only %d changes", n)
						}
						m.execute(second)
						if !second {
							for _, s := range m.plan(false).Steps {
								if s.State != Done {
									t.Errorf("killed before change %d: %+v", n, s)
								}
							}
							if got := m.picture(); got != want {
								t.Errorf("killed before change %d, prepared otherwise than in one go:\n%s\nbut\n%s", n, want, got)
							}
							m.execute(true)
						}
						if got := m.picture(); got != before {
							t.Fatalf("killed before change %d, not as it was:\n%s\nbut\n%s", n, before, got)
						}
						if files := m.stateFiles(); len(files) > 0 {
							t.Fatalf("killed before change %d: left %v", n, files)
						}
						if !died {
							return
						}
					}
				})
			}
		}
	}
}
