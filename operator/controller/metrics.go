package controller

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/internal/metrics"
)

// Collector reads the objects of a namespace when it is scraped: phases, conditions, disks. Metrics of the control loops are
// controller-runtime's own.
type Collector struct {
	metrics.Descs
	reader    client.Reader
	namespace string

	phase, condition, health, asOf, claimed, eligible, updating *prometheus.Desc
}

// collectTime bounds one reading; the reader is a cache.
const collectTime = 5 * time.Second

// NewCollector makes a Collector; reader is the manager's cached client.
func NewCollector(reader client.Reader, namespace string) *Collector {
	c := &Collector{reader: reader, namespace: namespace}
	c.phase = c.New("iomesh_operator_cluster_phase", "1 for the phase of the cluster object.", "cluster", "phase")
	c.condition = c.New("iomesh_operator_cluster_condition", "1 for conditions that are True, 0 for False.", "cluster", "type", "reason")
	c.health = c.New("iomesh_operator_cluster_health", "1 for the health in the cluster object.", "cluster", "health")
	c.asOf = c.New("iomesh_operator_facts_timestamp_seconds", "When the metadata members last answered the operator, to the minute.", "cluster")
	c.updating = c.New("iomesh_operator_rolling_update", "1 while the chunk of a node is being replaced.", "cluster")
	c.claimed = c.New("iomesh_operator_devices", "Block devices by what the cluster does with them.", "state")
	c.eligible = c.New("iomesh_operator_eligible_devices", "Block devices that could be given to a cluster.")
	return c
}

// Collect implements prometheus.Collector. What cannot be read is left out of this scrape.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), collectTime)
	defer cancel()
	out := metrics.Sink(ch)
	var clusters v1alpha1.IOMeshClusterList
	if err := c.reader.List(ctx, &clusters, client.InNamespace(c.namespace)); err != nil {
		return
	}
	for i := range clusters.Items {
		o := &clusters.Items[i]
		if o.Status.Phase != "" {
			out.Gauge(c.phase, 1, o.Name, string(o.Status.Phase))
		}
		if o.Status.Health != "" {
			out.Gauge(c.health, 1, o.Name, string(o.Status.Health))
		}
		for _, x := range o.Status.Conditions {
			out.Gauge(c.condition, metrics.Flag(x.Status == "True"), o.Name, x.Type, x.Reason)
		}
		if o.Status.MetaAsOf != nil {
			out.Gauge(c.asOf, float64(o.Status.MetaAsOf.Unix()), o.Name)
		}
		out.Gauge(c.updating, metrics.Flag(o.Status.UpdatingNode != ""), o.Name)
	}
	var devices v1alpha1.BlockDeviceList
	if err := c.reader.List(ctx, &devices, client.InNamespace(c.namespace)); err != nil {
		return
	}
	states := map[string]int{string(v1alpha1.Claimed): 0, string(v1alpha1.Unclaimed): 0}
	eligible := 0
	for i := range devices.Items {
		st := &devices.Items[i].Status
		if st.ClaimState != "" {
			states[string(st.ClaimState)]++
		}
		if st.Eligible && st.State == v1alpha1.DeviceActive {
			eligible++
		}
	}
	for s, n := range states {
		out.Gauge(c.claimed, float64(n), s)
	}
	out.Gauge(c.eligible, float64(eligible))
}
