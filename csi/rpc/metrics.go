package rpc

import (
	"context"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

// callMetrics count the calls of a plugin. Labels are methods of the specification and gRPC codes: bounded.
type callMetrics struct {
	took     *prometheus.HistogramVec
	inFlight *prometheus.GaugeVec
}

func newCallMetrics() *callMetrics {
	return &callMetrics{
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "iomesh_csi_call_seconds", Help: "Time of a CSI call by its result.",
			Buckets: []float64{.005, .02, .1, .5, 1, 2, 5, 10, 30, 60, 120}}, []string{"method", "code"}),
		inFlight: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "iomesh_csi_calls_in_flight", Help: "CSI calls under way."}, []string{"method"}),
	}
}

// observe stands outside the interceptor that turns errors into codes, so that it sees what the caller sees.
func (m *callMetrics) observe(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	method := info.FullMethod[strings.LastIndexByte(info.FullMethod, '/')+1:]
	g := m.inFlight.WithLabelValues(method)
	g.Inc()
	defer g.Dec()
	start := time.Now()
	resp, err := next(ctx, req)
	m.took.WithLabelValues(method, status.Code(err).String()).Observe(time.Since(start).Seconds())
	return resp, err
}

// Collectors are the server's metrics, to be registered once.
func (s Server) Collectors() []prometheus.Collector {
	return []prometheus.Collector{s.calls.took, s.calls.inFlight}
}
