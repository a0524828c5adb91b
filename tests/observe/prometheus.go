package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

const prometheusAddress = "127.0.0.1:9090"

// shorten makes waits and windows of rules fit a run of minutes.
func shorten(rules string) string {
	rules = regexp.MustCompile(`(?m)^(\s+for: ).*$`).ReplaceAllString(rules, "${1}2s")
	// Restarts are counted over a minute; increases are followed for some seconds, so that an alert ends soon after its cause.
	rules = strings.ReplaceAll(rules, "[15m]) > 3", "[60s]) > 3")
	return regexp.MustCompile(`\[(15m|10m|5m|2m|1m)\]`).ReplaceAllString(rules, "[10s]")
}

// startPrometheus runs Debian's prometheus over the cluster's daemons with the chart's rules.
func (o *observer) startPrometheus(ctx context.Context) error {
	dir := filepath.Join(o.c.Dir, "prometheus")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	rules, err := os.ReadFile(o.rules)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "rules.yaml"), []byte(shorten(string(rules))), 0o600); err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString("global: {scrape_interval: 1s, scrape_timeout: 900ms, evaluation_interval: 1s}\nrule_files: [rules.yaml]\nscrape_configs:\n- job_name: iomesh\n  static_configs:\n")
	for _, n := range o.c.Nodes {
		fmt.Fprintf(&b, "  - {targets: ['%s:10103'], labels: {component: meta}}\n  - {targets: ['%s:10203'], labels: {component: chunk}}\n", n.Address, n.Address)
	}
	fmt.Fprintf(&b, "  - {targets: ['%s'], labels: {component: redirect}}\n", redirectMetrics)
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(b.String()), 0o600); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(o.c.Dir, "logs", "prometheus.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	o.prometheus = exec.Command("prometheus", "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+prometheusAddress, "--log.level=warn")
	o.prometheus.Stdout, o.prometheus.Stderr = log, log
	o.prometheus.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return o.prometheus.Start()
}

func (o *observer) stopPrometheus() {
	if o.prometheus != nil && o.prometheus.Process != nil {
		_ = o.prometheus.Process.Kill()
		_ = o.prometheus.Wait()
		o.prometheus = nil
	}
}

// query asks Prometheus and returns the samples' labels; the error is Prometheus' own.
func query(ctx context.Context, expr string) ([]map[string]string, []string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+prometheusAddress+"/api/v1/query?query="+url.QueryEscape(expr), nil)
	if err != nil {
		return nil, nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	var answer struct {
		Status, Error string
		Data          struct {
			ResultType string
			Result     json.RawMessage
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return nil, nil, err
	}
	if answer.Status != "success" {
		return nil, nil, fmt.Errorf("%s: %s", expr, answer.Error)
	}
	var samples []struct {
		Metric map[string]string
		Value  [2]any
	}
	if err := json.Unmarshal(answer.Data.Result, &samples); err != nil {
		return nil, nil, fmt.Errorf("%s: result is no vector", expr)
	}
	var labels []map[string]string
	var values []string
	for _, s := range samples {
		labels = append(labels, s.Metric)
		values = append(values, fmt.Sprint(s.Value[1]))
	}
	return labels, values, nil
}

// firing lists the alerts that fire.
func firing(ctx context.Context) []string { return alerts(ctx, "firing") }

// alerts lists the alerts in a state, a regular expression, without the prefix IOMesh.
func alerts(ctx context.Context, state string) []string {
	labels, _, err := query(ctx, `ALERTS{alertstate=~"`+state+`"}`)
	if err != nil {
		return []string{"no answer of Prometheus: " + err.Error()}
	}
	var out []string
	for _, l := range labels {
		if n := strings.TrimPrefix(l["alertname"], "IOMesh"); !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

// panels evaluates every query of every dashboard; a query without data must be one that says why.
func (o *observer) panels(ctx context.Context) (n int, faults []string) {
	names, err := filepath.Glob(filepath.Join(filepath.Dir(o.rules), "dashboards", "*.json"))
	if err != nil || len(names) == 0 {
		return 0, []string{"no dashboards found"}
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return n, []string{err.Error()}
		}
		var d struct {
			Title  string
			Panels []struct {
				Title       string
				Targets     []struct{ Expr string }
				FieldConfig struct{ Defaults struct{ NoValue string } }
			}
		}
		if err := json.Unmarshal(data, &d); err != nil {
			return n, []string{err.Error()}
		}
		for _, p := range d.Panels {
			for _, t := range p.Targets {
				n++
				expr := strings.NewReplacer("$__rate_interval", "30s", "$node", ".*", "$volume", ".*").Replace(t.Expr)
				labels, _, err := query(ctx, expr)
				switch {
				case err != nil:
					faults = append(faults, fmt.Sprintf("%s, %s: %v", d.Title, p.Title, err))
				case len(labels) == 0 && p.FieldConfig.Defaults.NoValue == "0":
					faults = append(faults, fmt.Sprintf("%s, %s: no data and no reason for it: %s", d.Title, p.Title, expr))
				}
			}
		}
	}
	return n, faults
}

// await polls until f is true.
func await(ctx context.Context, within time.Duration, f func() bool) (time.Duration, bool) {
	start := time.Now()
	for time.Since(start) < within && ctx.Err() == nil {
		if f() {
			return time.Since(start), true
		}
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
	return time.Since(start), false
}
