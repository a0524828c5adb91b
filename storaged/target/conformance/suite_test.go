package conformance

import "testing"

func TestOutputIsRead(t *testing.T) {
	r := parse(`
Suite: One
  Test: Good ...passed
  Test: Skips ...    [SKIPPED] EXTENDEDCOPY is not implemented.
passed
  Test: Bad ...    [FAILED] READ16 command failed
FAILED
    1. test_x.c:12  - CU_ASSERT_EQUAL(ret,0)
  Test: Provoked ...    [FAILED] provoked
passed    [FAILED] noise of the next test
Run Summary:    Type  Total
`)
	want := map[string][2]bool{"One.Good": {}, "One.Skips": {false, true}, "One.Bad": {true, false}, "One.Provoked": {}}
	if len(r.Tests) != len(want) {
		t.Fatalf("%d tests", len(r.Tests))
	}
	for _, x := range r.Tests {
		if w := want[x.Name]; x.Failed != w[0] || x.Skipped != w[1] {
			t.Errorf("%s: failed %v, skipped %v", x.Name, x.Failed, x.Skipped)
		}
	}
	if len(r.Failed()) != 1 || len(r.Skipped()) != 1 {
		t.Error("lists")
	}
}
