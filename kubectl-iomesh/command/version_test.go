package command

import (
	"strings"
	"testing"
)

func TestSkewIsExplained(t *testing.T) {
	for _, c := range []struct {
		name   string
		images map[string][]string
		want   string
	}{
		{"one image", map[string][]string{"meta": {"a"}, "chunk": {"a"}, "attach": {"a"}, "": {"z"}}, ""},
		{"attach pods wait for their nodes", map[string][]string{"meta": {"b"}, "chunk": {"b"}, "attach": {"a", "b"}}, "Attach pods"},
		{"all attach pods wait", map[string][]string{"meta": {"b"}, "attach": {"a"}}, "Attach pods"},
		{"an update has stopped", map[string][]string{"meta": {"b"}, "chunk": {"a", "b"}, "attach": {"a"}}, "Several images"},
		{"a component is behind", map[string][]string{"meta": {"b"}, "chunk": {"a"}}, "Several images"},
	} {
		if got := skew(c.images); c.want == "" && got != "" || !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %q", c.name, got)
		}
	}
}
