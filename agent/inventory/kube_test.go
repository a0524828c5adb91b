package inventory

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/iomesh/iomesh/api/v1alpha1"
)

func TestOnlyWishesAreNews(t *testing.T) {
	seen := map[types.UID]int64{}
	event := func(kind watch.EventType, uid string, generation int64) watch.Event {
		return watch.Event{Type: kind, Object: &v1alpha1.BlockDevice{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid), Generation: generation}}}
	}
	for _, c := range []struct {
		name string
		e    watch.Event
		want bool
	}{
		{"a new object", event(watch.Added, "a", 1), true},
		{"its status", event(watch.Modified, "a", 1), false},
		{"its claim", event(watch.Modified, "a", 2), true},
		{"its status again", event(watch.Modified, "a", 2), false},
		{"another object", event(watch.Added, "b", 2), true},
		{"its end", event(watch.Deleted, "a", 2), true},
		{"the same name anew", event(watch.Added, "c", 1), true},
		{"an error of the watch", watch.Event{Type: watch.Error, Object: &metav1.Status{}}, true},
	} {
		if got := news(seen, c.e); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

func TestIntegersStayIntegers(t *testing.T) {
	m, err := toMap(v1alpha1.BlockDeviceSpec{Identity: v1alpha1.Identity{SizeBytes: 1<<53 + 1}})
	if err != nil {
		t.Fatal(err)
	}
	if got := m["identity"].(map[string]any)["sizeBytes"]; got != int64(1<<53+1) {
		t.Errorf("size %v (%T)", got, got)
	}
	if _, ok := m["claim"]; ok {
		t.Error("an absent claim would be applied, and so owned")
	}
}
