package chunk

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics of a chunk.
type metrics struct {
	reg         *prometheus.Registry
	diskRead    prometheus.Histogram
	resyncBytes prometheus.Counter
	repairs     prometheus.Counter
}

func newMetrics() *metrics {
	m := &metrics{reg: prometheus.NewRegistry(),
		diskRead: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "iomesh_chunk_disk_read_seconds",
			Help: "Time of one read of the store, checksum verification included.", Buckets: prometheus.ExponentialBuckets(20e-6, 2, 18)}),
		resyncBytes: prometheus.NewCounter(prometheus.CounterOpts{Name: "iomesh_chunk_resync_bytes_total",
			Help: "Bytes copied by finished resyncs of volumes owned here."}),
		repairs: prometheus.NewCounter(prometheus.CounterOpts{Name: "iomesh_chunk_repairs_total",
			Help: "Ranges of bad blocks rewritten from a good copy."}),
	}
	m.reg.MustRegister(m.diskRead, m.resyncBytes, m.repairs,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// serve answers scrapes until ctx ends.
func (m *metrics) serve(ctx context.Context, ln net.Listener) error {
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(m.reg, promhttp.HandlerOpts{}))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
