package rpc

import (
	"context"
	"log/slog"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestCallsAreCountedByMethodAndCode(t *testing.T) {
	s := New(slog.New(slog.DiscardHandler))
	defer s.Stop()
	for _, c := range []codes.Code{codes.OK, codes.NotFound, codes.NotFound} {
		_, _ = s.calls.observe(context.Background(), nil, &grpc.UnaryServerInfo{FullMethod: "/csi.v1.Controller/DeleteVolume"},
			func(context.Context, any) (any, error) { return nil, status.Error(c, "x") })
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(s.Collectors()...)
	got := map[string]uint64{}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "iomesh_csi_call_seconds" {
				got[m.GetLabel()[0].GetValue()+" "+m.GetLabel()[1].GetValue()] = m.GetHistogram().GetSampleCount()
			}
		}
	}
	if got["OK DeleteVolume"] != 1 || got["NotFound DeleteVolume"] != 2 {
		t.Errorf("%v", got)
	}
}
