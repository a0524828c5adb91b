package health

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

type probe struct {
	csipb.IdentityClient
	resp *csipb.ProbeResponse
	err  error
}

func (p probe) Probe(context.Context, *csipb.ProbeRequest, ...grpc.CallOption) (*csipb.ProbeResponse, error) {
	return p.resp, p.err
}

func TestHealthFollowsProbe(t *testing.T) {
	for _, tc := range []struct {
		name string
		p    probe
		want int
	}{
		{"ready", probe{resp: &csipb.ProbeResponse{Ready: wrapperspb.Bool(true)}}, http.StatusOK},
		{"nothing said means ready (CSI)", probe{resp: &csipb.ProbeResponse{}}, http.StatusOK},
		{"not ready", probe{resp: &csipb.ProbeResponse{Ready: wrapperspb.Bool(false)}}, http.StatusServiceUnavailable},
		{"no answer", probe{err: errors.New("gone")}, http.StatusServiceUnavailable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			Handler(tc.p, http.NotFoundHandler()).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/healthz", nil))
			if w.Code != tc.want {
				t.Errorf("status %d, want %d", w.Code, tc.want)
			}
		})
	}
}
