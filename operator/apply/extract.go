package apply

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// extract lists the items of a list.
func extract(list client.ObjectList) ([]client.Object, error) {
	raw, err := meta.ExtractList(list)
	if err != nil {
		return nil, fmt.Errorf("items of %T: %w", list, err)
	}
	out := make([]client.Object, 0, len(raw))
	for _, r := range raw {
		o, ok := r.(client.Object)
		if !ok {
			return nil, fmt.Errorf("items of %T: %T is no object", list, r)
		}
		out = append(out, o)
	}
	return out, nil
}
