package netns

import (
	"strings"
	"testing"
)

func TestNamesDependOnTheWorkDirectoryOnly(t *testing.T) {
	if ClusterID("/tmp/a") != ClusterID("/tmp/a/") {
		t.Error("the same directory gives two names")
	}
	if ClusterID("/tmp/a") == ClusterID("/tmp/b") {
		t.Error("two directories give the same name")
	}
	if got, want := Name(ClusterID("/tmp/a"), "n1"), "iomesh-"+ClusterID("/tmp/a")+"-n1"; got != want || len(got) != len("iomesh-123456-n1") {
		t.Errorf("name %q, want %q", got, want)
	}
}

func TestDialerTakesAddressesOnly(t *testing.T) {
	for _, address := range []string{"localhost:80", "10.0.0.1", "kubernetes.default:443", ""} {
		_, err := Dialer{Namespace: "x"}.DialContext(t.Context(), "tcp", address)
		if err == nil || !strings.Contains(err.Error(), "only an IP address and a port") {
			t.Errorf("dial %q: %v", address, err)
		}
	}
}

func TestAMissingNamespaceIsNamed(t *testing.T) {
	_, err := Dialer{Namespace: "iomesh-none"}.DialContext(t.Context(), "tcp", "10.0.0.1:1")
	if err == nil || !strings.Contains(err.Error(), "/run/netns/iomesh-none") {
		t.Errorf("error %v does not name it", err)
	}
}
