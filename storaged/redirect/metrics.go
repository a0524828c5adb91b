package redirect

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/iomesh/iomesh/internal/metrics"
	"github.com/iomesh/iomesh/internal/mtls"
)

// collector reads a redirector when it is scraped.
type collector struct {
	metrics.Descs
	s   *Server
	loc *metaLocator
	tls *mtls.Source

	connections, logins, refusedConnections, refusedLogins, questions, certificate, portals *prometheus.Desc
}

func (s *Server) registry(loc *metaLocator, tls *mtls.Source) *prometheus.Registry {
	c := &collector{s: s, loc: loc, tls: tls}
	c.connections = c.New("iomesh_redirect_connections", "Connections of initiators.")
	c.logins = c.New("iomesh_redirect_logins_waiting", "Logins under way, those parked until there is an owner included.")
	c.refusedConnections = c.New("iomesh_redirect_refused_connections_total", "Connections closed because a limit was reached.")
	c.refusedLogins = c.New("iomesh_redirect_refused_logins_total", "Logins that were not sent on: no such target, no grant.")
	c.questions = c.New("iomesh_redirect_questions_total", "Questions to the metadata members by whether one answered.", "result")
	c.portals = c.New("iomesh_redirect_known_targets", "Targets whose last portal is remembered for when no member answers.")
	c.certificate = c.New("iomesh_certificate_expiry_timestamp_seconds", "When the certificate in use ends.")
	r := metrics.NewRegistry("redirect")
	r.MustRegister(c)
	return r
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	out, t := metrics.Sink(ch), c.s.Totals()
	out.Gauge(c.connections, float64(t.Connections))
	out.Gauge(c.logins, float64(t.Logins))
	out.Counter(c.refusedConnections, float64(t.RefusedConnections))
	out.Counter(c.refusedLogins, float64(t.FailedLogins))
	out.Counter(c.questions, float64(c.loc.answered.Load()), "answered")
	out.Counter(c.questions, float64(c.loc.unanswered.Load()), "unanswered")
	out.Gauge(c.portals, float64(c.s.dir.size()))
	out.Gauge(c.certificate, float64(c.tls.NotAfter().Unix()))
}

func (d *directory) size() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.known)
}
