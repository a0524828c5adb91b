package certs

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/iomesh/iomesh/internal/mtls"
)

func authority(t *testing.T, id string) *mtls.Authority {
	t.Helper()
	data, err := NewAuthority(id)
	if err != nil {
		t.Fatal(err)
	}
	a, err := LoadAuthority(&corev1.Secret{Data: data})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestWhyIssue(t *testing.T) {
	const id = "11111111-2222-3333-4444-555555555555"
	a := authority(t, id)
	meta := Set([]string{"10.0.0.2", "10.0.0.1"})[0]
	data, err := Issue(a, meta)
	if err != nil {
		t.Fatal(err)
	}
	good := &corev1.Secret{Data: data}
	moved := meta
	moved.Hosts = []string{"10.0.0.9"}
	chunk := meta
	chunk.Role = mtls.RoleChunk
	leaf, err := parse(data[mtls.CertFile])
	if err != nil {
		t.Fatal(err)
	}
	without := func(key string) *corev1.Secret {
		s := good.DeepCopy()
		delete(s.Data, key)
		return s
	}
	now := time.Now()
	for _, tc := range []struct {
		name   string
		secret *corev1.Secret
		a      *mtls.Authority
		want   Wanted
		now    time.Time
		reason string
	}{
		{"a fresh one is kept", good, a, meta, now, ""},
		{"it is kept until two thirds of its time", good, a, meta, RenewAt(leaf).Add(-time.Second), ""},
		{"it is renewed from then on", good, a, meta, RenewAt(leaf), "it ends at"},
		{"there is none", nil, a, meta, now, "does not exist"},
		{"a member has a new address", good, a, moved, now, "does not name 10.0.0.9"},
		{"it is for another role", good, a, chunk, now, "it is for meta"},
		{"it is of another cluster", good, authority(t, "other"), meta, now, "of the cluster " + id},
		{"it is of an earlier authority of the cluster", good, authority(t, id), meta, now, "another authority"},
		{"its key was lost", without(mtls.KeyFile), a, meta, now, "key is missing"},
		{"it is empty", without(mtls.CertFile), a, meta, now, "no certificate in PEM"},
		{"it is garbage", &corev1.Secret{Data: map[string][]byte{mtls.CertFile: []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")}}, a, meta, now, "cannot be read"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := WhyIssue(tc.secret, tc.a, tc.want, tc.now)
			if (got == "") != (tc.reason == "") || !strings.Contains(got, tc.reason) {
				t.Errorf("reason %q, want %q", got, tc.reason)
			}
		})
	}
	if life := leaf.NotAfter.Sub(now); RenewAt(leaf).After(leaf.NotAfter.Add(-life / 4)) {
		t.Errorf("renewed at %s, too close to the end %s", RenewAt(leaf), leaf.NotAfter)
	}
}

func TestLoadAuthorityNamesTheSecret(t *testing.T) {
	for name, data := range map[string]map[string][]byte{
		"nothing":    nil,
		"no key":     {KeyClusterID: []byte("x"), mtls.CAFile: []byte("x")},
		"wrong pair": {KeyClusterID: []byte("x"), mtls.CAFile: authority(t, "x").CertPEM(), KeyAuthority: []byte("x")},
	} {
		s := &corev1.Secret{Data: data}
		s.Namespace, s.Name = "iomesh-system", "iomesh-ca"
		if _, err := LoadAuthority(s); err == nil || !strings.Contains(err.Error(), "iomesh-system/iomesh-ca") || !strings.Contains(err.Error(), "restore") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestEveryRoleHasACertificate(t *testing.T) {
	seen := map[mtls.Role]int{}
	for _, w := range Set(nil) {
		seen[w.Role]++
	}
	for _, r := range mtls.Roles() {
		if seen[r] != 1 {
			t.Errorf("role %s has %d certificates", r, seen[r])
		}
	}
}
