package load

import (
	"strings"
	"testing"
)

func TestALedgerSeesOldTornAndMisplacedBlocks(t *testing.T) {
	l := NewLedger(8 * blockBytes)
	p := make([]byte, 2*blockBytes)
	l.stamp(p, 2*blockBytes)
	old := append([]byte(nil), p...)
	l.stamp(p, 2*blockBytes)
	if err := l.check(p, 2*blockBytes); err != nil {
		t.Fatal(err)
	}
	if err := l.check(p, 6*blockBytes); err != nil {
		t.Fatalf("blocks never written: %v", err)
	}
	torn := append(append([]byte(nil), p[:blockBytes/2]...), old[blockBytes/2:]...)
	swapped := append(append([]byte(nil), p[blockBytes:]...), p[:blockBytes]...)
	for name, q := range map[string][]byte{"old": old, "torn": torn, "in the wrong place": swapped, "zero": make([]byte, 2*blockBytes)} {
		if err := l.check(q, 2*blockBytes); err == nil || !strings.Contains(err.Error(), "want write 2") {
			t.Errorf("a block that is %s: %v", name, err)
		}
	}
}
