package devicemap

import (
	"fmt"
	"strings"
)

// Explain says in one line why devices are not used, empty when there is nothing to say.
func (d Decision) Explain() string {
	if len(d.Findings) == 0 {
		return ""
	}
	const most = 4
	texts := make([]string, 0, most+1)
	for i, f := range d.Findings {
		if i == most {
			texts = append(texts, fmt.Sprintf("and %d more", len(d.Findings)-most))
			break
		}
		texts = append(texts, f.String())
	}
	return strings.Join(texts, "; ")
}
