package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/iomesh/iomesh/agent/inventory"
	"github.com/iomesh/iomesh/api/v1alpha1"
)

// deviceCollector reports the last round's view.
type deviceCollector struct {
	snapshot func() inventory.Snapshot
	devices  *prometheus.Desc
	size     *prometheus.Desc
	scanned  *prometheus.Desc
	failed   *prometheus.Desc
	// Those of the original.
	info     *prometheus.Desc
	lifespan *prometheus.Desc
	selfTest *prometheus.Desc
}

func newDeviceCollector(snapshot func() inventory.Snapshot) *deviceCollector {
	return &deviceCollector{
		snapshot: snapshot,
		devices:  prometheus.NewDesc("iomesh_agent_devices", "Published block devices of this node by state of their claim and eligibility.", []string{"claim_state", "eligible"}, nil),
		size:     prometheus.NewDesc("iomesh_agent_device_size_bytes", "Size of a published block device.", []string{"device", "path", "claim_state", "health"}, nil),
		scanned:  prometheus.NewDesc("iomesh_agent_last_scan_timestamp_seconds", "When the devices were last looked at.", nil, nil),
		failed:   prometheus.NewDesc("iomesh_agent_round_failed", "1 while the last round had an error.", nil, nil),
		info:     prometheus.NewDesc("blockdevicemonitor_blockdevice_info", "1 for each published block device.", []string{"device", "path", "type", "drive", "model", "serial", "vendor", "health"}, nil),
		lifespan: prometheus.NewDesc("blockdevicemonitor_smart_lifespan_percentage", "Life that a disk says it has left, in percent.", []string{"device", "path"}, nil),
		selfTest: prometheus.NewDesc("blockdevicemonitor_smart_self_test_status", "What a disk says of itself: 1 it passes, 2 it, or its last self-test, fails.", []string{"device", "path"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *deviceCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.devices
	ch <- c.size
	ch <- c.scanned
	ch <- c.failed
	ch <- c.info
	ch <- c.lifespan
	ch <- c.selfTest
}

// Collect implements prometheus.Collector.
func (c *deviceCollector) Collect(ch chan<- prometheus.Metric) {
	snap := c.snapshot()
	if snap.Time.IsZero() {
		return
	}
	type key struct{ claim, eligible string }
	count := map[key]int{}
	for _, it := range snap.Items {
		if !it.Published {
			continue
		}
		count[key{string(it.Status.ClaimState), fmt.Sprint(it.Status.Eligible)}]++
		ch <- prometheus.MustNewConstMetric(c.size, prometheus.GaugeValue, float64(it.Device.SizeBytes), it.Name, it.Device.Path, string(it.Status.ClaimState), string(it.Status.Health))
		k := it.Device.Key
		ch <- prometheus.MustNewConstMetric(c.info, prometheus.GaugeValue, 1, it.Name, it.Device.Path, string(it.Device.Type), string(it.Device.Drive), k.Model, k.Serial, k.Vendor, string(it.Status.Health))
		if s := it.Status.Smart; s != nil {
			c.collectSmart(ch, it, s)
		}
	}
	for k, n := range count {
		ch <- prometheus.MustNewConstMetric(c.devices, prometheus.GaugeValue, float64(n), k.claim, k.eligible)
	}
	ch <- prometheus.MustNewConstMetric(c.scanned, prometheus.GaugeValue, float64(snap.Time.Unix()))
	failed := 0.0
	if snap.Error != "" {
		failed = 1
	}
	ch <- prometheus.MustNewConstMetric(c.failed, prometheus.GaugeValue, failed)
}

// collectSmart reports what a disk says of itself; what it does not say is left out.
func (c *deviceCollector) collectSmart(ch chan<- prometheus.Metric, it inventory.Item, s *v1alpha1.SmartStatus) {
	if s.LifespanPercentage != nil {
		ch <- prometheus.MustNewConstMetric(c.lifespan, prometheus.GaugeValue, float64(*s.LifespanPercentage), it.Name, it.Device.Path)
	}
	switch {
	case s.Health == v1alpha1.SmartFailed || s.SmartSelfTestStatus == v1alpha1.SmartFailed:
		ch <- prometheus.MustNewConstMetric(c.selfTest, prometheus.GaugeValue, 2, it.Name, it.Device.Path)
	case s.Health == v1alpha1.SmartPassed || s.SmartSelfTestStatus == v1alpha1.SmartPassed:
		ch <- prometheus.MustNewConstMetric(c.selfTest, prometheus.GaugeValue, 1, it.Name, it.Device.Path)
	}
}

// serveMetrics serves /metrics and /healthz until ctx ends.
func serveMetrics(ctx context.Context, address string, snapshot func() inventory.Snapshot) error {
	reg := prometheus.NewRegistry()
	reg.MustRegister(newDeviceCollector(snapshot), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		// Healthy means that rounds are made, not that they succeed: a restart would not bring the API server back.
		if age := time.Since(snapshot().Time); age > 5*time.Minute {
			http.Error(w, fmt.Sprintf("last round %s ago", age.Round(time.Second)), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	s := &http.Server{Addr: address, Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-ctx.Done()
		s.Close()
	}()
	if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics on %s: %w", address, err)
	}
	<-done
	return nil
}
