package crash

import (
	"log/slog"
	"strings"
	"testing"
)

func TestEachChosenStepEndsTheProcessOnce(t *testing.T) {
	known := []string{"a", "b", "c"}
	for wish, want := range map[string]string{"": "", "b": "b", "a,c": "ac", "all": "abc"} {
		t.Run("at "+wish, func(t *testing.T) {
			dir, ended := t.TempDir(), ""
			for range 2 { // a restarted process does not end there again
				at := ""
				step, err := At(wish, known, dir, func(int) { ended += at }, slog.New(slog.DiscardHandler))
				if err != nil {
					t.Fatal(err)
				}
				for _, s := range known {
					if at = s; step != nil {
						if err := step(s); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			if ended != want {
				t.Errorf("ended at %q, want %q", ended, want)
			}
		})
	}
	if _, err := At("a,x", known, t.TempDir(), nil, nil); err == nil || !strings.Contains(err.Error(), `"x"`) {
		t.Errorf("an unknown step: %v", err)
	}
}
