package meta

import (
	"testing"
	"time"
)

// A new version of etcd may use the names for something else: then this says so, not a member that behaves strangely.
func TestEtcdsIntervalsAreThoseThatAreMeant(t *testing.T) {
	for name, x := range map[string]struct {
		now         time.Duration
		theirs, set time.Duration
	}{
		"rafthttp.proberInterval": {rafthttpProberInterval, 4 * time.Second, probeEvery},
		"mvcc.watchResyncPeriod":  {mvccWatchResyncPeriod, 100 * time.Millisecond, watchEvery},
	} {
		if x.now != x.theirs && x.now != x.set {
			t.Errorf("%s is %s; of etcd it is known to be %s", name, x.now, x.theirs)
		}
	}
	calmEtcd()
	if rafthttpProberInterval != probeEvery || mvccWatchResyncPeriod != watchEvery {
		t.Errorf("after setting them: %s, %s", rafthttpProberInterval, mvccWatchResyncPeriod)
	}
}
