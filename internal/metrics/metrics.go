package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/iomesh/iomesh/internal/hist"
	"github.com/iomesh/iomesh/internal/version"
)

// NewRegistry returns a registry with the Go runtime's, the process's and the build's metrics. component is the daemon's name.
func NewRegistry(component string) *prometheus.Registry {
	r := prometheus.NewRegistry()
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "iomesh_build_info", Help: "1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"component": component, "version": version.String()}})
	build.Set(1)
	r.MustRegister(build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// Handler serves /metrics, and /healthz: 200 while healthy returns nil. A nil healthy always is.
func Handler(g prometheus.Gatherer, healthy func() error) http.Handler {
	mux := http.NewServeMux()
	// A collector that fails must not take the other metrics along.
	mux.Handle("/metrics", promhttp.HandlerFor(g, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 8, Timeout: 10 * time.Second}))
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if healthy != nil {
			if err := healthy(); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}

// Serve answers on the listener until ctx ends; it closes the listener.
func Serve(ctx context.Context, ln net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("metrics on %s: %w", ln.Addr(), err)
	}
	return nil
}

// Start listens on address and serves in the background until ctx ends; "" and "off" serve nothing. wait returns when the server has ended. What
// fails later is logged: a daemon does not end for its metrics.
func Start(ctx context.Context, address string, h http.Handler, log *slog.Logger) (wait func(), err error) {
	if address == "" || address == "off" {
		return func() {}, nil
	}
	ln, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for metrics on %s: %w", address, err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := Serve(ctx, ln, h); err != nil {
			log.Error("metrics are not served any more", "err", err)
		}
	}()
	return func() { <-done }, nil
}

// Descs makes descriptions and emits constant metrics of them: the body of a collector that reads state when scraped.
type Descs struct {
	list []*prometheus.Desc
}

// New describes a metric.
func (d *Descs) New(name, help string, labels ...string) *prometheus.Desc {
	x := prometheus.NewDesc(name, help, labels, nil)
	d.list = append(d.list, x)
	return x
}

// Describe implements half of prometheus.Collector.
func (d *Descs) Describe(ch chan<- *prometheus.Desc) {
	for _, x := range d.list {
		ch <- x
	}
}

// Sink takes the metrics of one scrape.
type Sink chan<- prometheus.Metric

// Gauge emits a value that goes up and down.
func (s Sink) Gauge(d *prometheus.Desc, v float64, labels ...string) {
	s <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

// Counter emits a value that only grows.
func (s Sink) Counter(d *prometheus.Desc, v float64, labels ...string) {
	s <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}

// Histogram emits durations, in seconds.
func (s Sink) Histogram(d *prometheus.Desc, h hist.Snapshot, labels ...string) {
	s <- prometheus.MustNewConstHistogram(d, h.Count(), h.Sum.Seconds(), h.Buckets(), labels...)
}

// Flag is 1 for true.
func Flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
