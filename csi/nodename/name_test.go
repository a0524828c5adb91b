package nodename

import (
	"strings"
	"testing"
)

func TestANodeNameSurvivesTheWayThroughTheInitiatorName(t *testing.T) {
	for _, node := range []string{"n1", "worker-3.example.com", "0"} {
		initiator, err := Initiator(node)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := Node(initiator); err != nil || back != node {
			t.Errorf("%s became %s and then %q, %v", node, initiator, back, err)
		}
	}
}

func TestLongNodeNamesStayDistinctAndWithinAnISCSIName(t *testing.T) {
	long := strings.Repeat("a", 63) + "." + strings.Repeat("b", 63) + "." + strings.Repeat("c", 63) + "." + strings.Repeat("d", 60)
	a, err := Initiator(long)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Initiator(long[:len(long)-1] + "x")
	if err != nil {
		t.Fatal(err)
	}
	if len(a) > 223 || a == b {
		t.Errorf("initiator names %q (%d bytes) and %q", a, len(a), b)
	}
	if _, err := Node(a); err != nil {
		t.Errorf("the cut name is not recognised: %v", err)
	}
}

func TestOtherNamesAreRefused(t *testing.T) {
	for _, bad := range []string{"", "fake-node-id", Prefix, Prefix + "A", Prefix + "-x", Prefix + "a..b", Prefix + strings.Repeat("a", 200), "iqn.1993-08.org.debian:01:abc"} {
		if node, err := Node(bad); err == nil {
			t.Errorf("%q was taken for node %q", bad, node)
		}
	}
	for _, bad := range []string{"", "A", "a_b", ".a", "a.", strings.Repeat("a", 254)} {
		if name, err := Initiator(bad); err == nil {
			t.Errorf("node name %q became %q", bad, name)
		}
	}
}
