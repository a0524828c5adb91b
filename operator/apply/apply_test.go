package apply

import (
	"context"
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
)

func configMap(data string) *corev1.ConfigMap {
	return &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "s", Labels: map[string]string{"l": "1"}},
		Data: map[string]string{"k": data}}
}

func newClient(t *testing.T, applies *int) client.Client {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	return fake.NewClientBuilder().WithScheme(scheme).WithInterceptorFuncs(interceptor.Funcs{
		Apply: func(ctx context.Context, c client.WithWatch, obj runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
			*applies++
			return c.Apply(ctx, obj, opts...)
		},
	}).Build()
}

func TestApplyAsksTheServerOnlyWhenSomethingChanged(t *testing.T) {
	applies := 0
	c := newClient(t, &applies)
	a := New(c, "operator")
	step := func(name string, obj client.Object, wantChanged bool, wantApplies int) {
		t.Helper()
		changed, err := a.Apply(t.Context(), obj)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if changed != wantChanged || applies != wantApplies {
			t.Errorf("%s: changed %v after %d requests, want %v after %d", name, changed, applies, wantChanged, wantApplies)
		}
	}
	step("created", configMap("1"), true, 1)
	step("the same again", configMap("1"), false, 1)
	step("another wish", configMap("2"), true, 2)
	var live corev1.ConfigMap
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(configMap("")), &live); err != nil {
		t.Fatal(err)
	}
	live.Data["k"] = "meddled"
	if err := c.Update(t.Context(), &live, client.FieldOwner("someone")); err != nil {
		t.Fatal(err)
	}
	step("changed by someone else", configMap("2"), true, 3)
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(configMap("")), &live); err != nil || live.Data["k"] != "2" {
		t.Errorf("the wish was not restored: %v, %v", live.Data, err)
	}
	if err := c.Delete(t.Context(), &live); err != nil {
		t.Fatal(err)
	}
	step("deleted by someone else", configMap("2"), true, 4)
}

func TestApplyRefusesObjectsWithoutKind(t *testing.T) {
	applies := 0
	obj := configMap("1")
	obj.TypeMeta = metav1.TypeMeta{}
	if _, err := New(newClient(t, &applies), "operator").Apply(t.Context(), obj); err == nil || applies != 0 {
		t.Errorf("error %v after %d requests", err, applies)
	}
}

func TestPruneDeletesWhatIsNotKept(t *testing.T) {
	applies := 0
	c := newClient(t, &applies)
	for _, name := range []string{"keep", "drop", "foreign"} {
		cm := configMap("1")
		cm.Name = name
		if name == "foreign" {
			cm.Labels = nil
		}
		if err := c.Create(t.Context(), cm); err != nil {
			t.Fatal(err)
		}
	}
	n, err := New(c, "operator").Prune(t.Context(), &corev1.ConfigMapList{}, func(o client.Object) bool { return o.GetName() == "keep" },
		client.InNamespace("s"), client.MatchingLabels{"l": "1"})
	if err != nil || n != 1 {
		t.Fatalf("%d pruned, %v", n, err)
	}
	var left corev1.ConfigMapList
	if err := c.List(t.Context(), &left); err != nil || len(left.Items) != 2 {
		t.Errorf("%d left, %v", len(left.Items), err)
	}
}

func TestDeleteTakesOnlyTheObjectThatWasSeen(t *testing.T) {
	for name, tc := range map[string]struct {
		answer error
		fails  bool
	}{
		"gone already is fine":    {apierrors.NewNotFound(corev1.Resource("configmaps"), "a"), false},
		"a successor is left":     {apierrors.NewConflict(corev1.Resource("configmaps"), "a", errors.New("uid")), false},
		"other errors are passed": {errors.New("down"), true},
	} {
		var opts client.DeleteOptions
		c := interceptor.NewClient(newClient(t, new(int)).(client.WithWatch), interceptor.Funcs{
			Delete: func(_ context.Context, _ client.WithWatch, _ client.Object, o ...client.DeleteOption) error {
				opts.ApplyOptions(o)
				return tc.answer
			},
		})
		obj := configMap("1")
		obj.UID = "u1"
		if err := Delete(t.Context(), c, obj); (err != nil) != tc.fails {
			t.Errorf("%s: %v", name, err)
		}
		if opts.Preconditions == nil || *opts.Preconditions.UID != "u1" {
			t.Errorf("%s: deleted whatever has the name", name)
		}
	}
}
