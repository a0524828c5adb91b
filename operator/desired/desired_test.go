package desired

import (
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/iomesh/iomesh/api/v1alpha1"
)

func TestAMemberIsReadBackFromItsVolume(t *testing.T) {
	in := input()
	for i, pv := range MetaVolumes(in) {
		m, err := MetaMember(pv)
		if err != nil {
			t.Fatal(err)
		}
		if m != in.Meta[i] {
			t.Errorf("read back %+v, want %+v", m, in.Meta[i])
		}
	}
	for name, spoil := range map[string]func(*corev1.PersistentVolume){
		"no address":  func(pv *corev1.PersistentVolume) { delete(pv.Annotations, annotationAddress) },
		"bad ordinal": func(pv *corev1.PersistentVolume) { pv.Annotations[annotationOrdinal] = "-1" },
		"no affinity": func(pv *corev1.PersistentVolume) { pv.Spec.NodeAffinity = nil },
		"other pinning": func(pv *corev1.PersistentVolume) {
			pv.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions = nil
		},
	} {
		pv := MetaVolumes(in)[0]
		spoil(pv)
		if _, err := MetaMember(pv); err == nil || !strings.Contains(err.Error(), pv.Name) {
			t.Errorf("%s: error %v does not name the volume", name, err)
		}
	}
}

func TestTheClaimOfAVolumeIsTheOneThatTheStatefulSetMakes(t *testing.T) {
	in := input()
	sts := Meta(in)
	for i, pv := range MetaVolumes(in) {
		want := sts.Spec.VolumeClaimTemplates[0].Name + "-" + sts.Name + "-" + string(rune('0'+i))
		if pv.Spec.ClaimRef.Name != want {
			t.Errorf("volume %s is for the claim %s, the StatefulSet makes %s", pv.Name, pv.Spec.ClaimRef.Name, want)
		}
		if pv.Spec.StorageClassName != *sts.Spec.VolumeClaimTemplates[0].Spec.StorageClassName {
			t.Errorf("volume %s has another storage class than its claim", pv.Name)
		}
	}
}

func TestTheRevisionFollowsTheSpecificationOnly(t *testing.T) {
	revision := func(edit func(*Input)) string {
		in := input()
		if edit != nil {
			edit(&in)
		}
		pod, err := ChunkPod(in, in.Chunks[0])
		if err != nil {
			t.Fatal(err)
		}
		return pod.Labels[v1alpha1.LabelRevision]
	}
	base := revision(nil)
	for name, tc := range map[string]struct {
		edit   func(*Input)
		change bool
	}{
		"another image":                 {func(in *Input) { in.Image = "iomesh/iomesh:v2" }, true},
		"another address":               {func(in *Input) { in.Chunks[0].Address = "10.1.0.9" }, true},
		"another budget":                {func(in *Input) { in.ChunkBudget.MinAvailable = 0 }, false},
		"another number of chunks":      {func(in *Input) { in.Chunks = in.Chunks[:1] }, false},
		"the order of members does not": {func(in *Input) { in.Meta[0], in.Meta[2] = in.Meta[2], in.Meta[0] }, false},
	} {
		if changed := revision(tc.edit) != base; changed != tc.change {
			t.Errorf("%s: revision changed %v, want %v", name, changed, tc.change)
		}
	}
}

func TestLongNodeNamesGiveDistinctPodNames(t *testing.T) {
	a, b := ChunkPodName(strings.Repeat("n", 80)+"1"), ChunkPodName(strings.Repeat("n", 80)+"2")
	if a == b || len(a) > 63 || len(b) > 63 {
		t.Errorf("names %s and %s", a, b)
	}
	if got := ChunkPodName("n1"); got != "iomesh-chunk-n1" {
		t.Errorf("short name became %s", got)
	}
}

// Privileged containers are the exception, and each pod that has one says which and why.
func TestPrivilegedContainersAreExplained(t *testing.T) {
	in := input()
	chunk, err := ChunkPod(in, in.Chunks[0])
	if err != nil {
		t.Fatal(err)
	}
	type pod struct {
		annotations map[string]string
		spec        corev1.PodSpec
	}
	for name, p := range map[string]pod{
		"meta":   {Meta(in).Spec.Template.Annotations, Meta(in).Spec.Template.Spec},
		"chunk":  {chunk.Annotations, chunk.Spec},
		"node":   {Node(in).Spec.Template.Annotations, Node(in).Spec.Template.Spec},
		"attach": {Attach(in).Spec.Template.Annotations, Attach(in).Spec.Template.Spec},
	} {
		for _, c := range p.spec.Containers {
			sc := c.SecurityContext
			if sc.Privileged != nil && *sc.Privileged {
				if !strings.Contains(p.annotations[v1alpha1.AnnotationPrivileged], c.Name+":") {
					t.Errorf("%s: the container %s is privileged and nothing says why", name, c.Name)
				}
				continue
			}
			if !reflect.DeepEqual(sc, unprivileged()) {
				t.Errorf("%s: the container %s has more rights than none: %+v", name, c.Name, sc)
			}
		}
	}
}

func TestHostPortsDoNotCollide(t *testing.T) {
	in := input()
	chunk, err := ChunkPod(in, in.Chunks[0])
	if err != nil {
		t.Fatal(err)
	}
	owner := map[int32]string{}
	for name, spec := range map[string]corev1.PodSpec{"meta": Meta(in).Spec.Template.Spec, "chunk": chunk.Spec, "node": Node(in).Spec.Template.Spec, "attach": Attach(in).Spec.Template.Spec} {
		for _, c := range spec.Containers {
			for _, p := range c.Ports {
				if other, ok := owner[p.HostPort]; ok {
					t.Errorf("port %d is of %s and of %s", p.HostPort, other, name)
				}
				owner[p.HostPort] = name
			}
		}
	}
}
