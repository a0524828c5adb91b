package replication_test

import (
	"go/parser"
	"go/token"
	"os"
	"strconv"
	"strings"
	"testing"
)

// allowed are the imports of the core: nothing that has a clock, a goroutine, a file, a socket, a log or randomness.
var allowed = map[string]bool{
	"maps": true, "slices": true, "math/bits": true, "sync/atomic": true,
	"time": true, // for Duration only, see below
	"github.com/iomesh/iomesh/storaged/block":    true,
	"github.com/iomesh/iomesh/storaged/timeouts": true,
}

func TestTheCoreImportsNothingThatActs(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		name := f.Name()
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			continue
		}
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		tree, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range tree.Imports {
			if p, _ := strconv.Unquote(i.Path.Value); !allowed[p] {
				t.Errorf("%s imports %s", name, p)
			}
		}
		for _, word := range []string{"time.Now", "time.After", "time.Sleep", "time.NewT", "\tgo ", "<-", "make(chan"} {
			if strings.Contains(string(src), word) {
				t.Errorf("%s contains %q", name, word)
			}
		}
	}
}
