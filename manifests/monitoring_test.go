package manifests

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/iomesh/iomesh/internal/status"
)

type ruleFile struct {
	Groups []struct {
		Name  string
		Rules []struct {
			Alert, Record, Expr string
			Labels, Annotations map[string]string
		}
	}
}

func readRules(t *testing.T) ruleFile {
	t.Helper()
	data, err := fs.ReadFile(Chart(), "monitoring/rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var f ruleFile
	if err := yaml.Unmarshal(data, &f); err != nil {
		t.Fatal(err)
	}
	return f
}

// promtool runs Debian's promtool, or skips where there is none.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	exe, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed: hack/deps.sh installs it")
	}
	if out, err := exec.CommandContext(t.Context(), exe, args...).CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func TestRulesPassPromtool(t *testing.T) {
	promtool(t, "check", "rules", "chart/monitoring/rules.yaml")
	promtool(t, "test", "rules", "testdata/rules_test.yaml")
}

func TestEveryAlertSaysWhatItMeansAndHasAPage(t *testing.T) {
	n := 0
	for _, g := range readRules(t).Groups {
		for _, r := range g.Rules {
			if r.Alert == "" {
				continue
			}
			n++
			for _, key := range []string{"summary", "description", "next", "runbook_url"} {
				if r.Annotations[key] == "" {
					t.Errorf("%s has no %s", r.Alert, key)
				}
			}
			switch r.Labels["severity"] {
			case "critical", "warning", "info":
			default:
				t.Errorf("%s: severity %q", r.Alert, r.Labels["severity"])
			}
			if _, err := os.Stat(filepath.Join("..", "docs", "runbooks", r.Alert+".md")); err != nil {
				t.Errorf("%s: %v", r.Alert, err)
			}
		}
	}
	if n < 30 {
		t.Errorf("%d alerts", n)
	}
}

func TestEveryFindingHasAPage(t *testing.T) {
	for _, c := range status.Codes() {
		if c == status.Reported {
			continue // the conclusion of an older version, without a code of its own
		}
		if _, err := os.Stat(filepath.Join("..", "docs", "runbooks", "IOMesh"+string(c)+".md")); err != nil {
			t.Errorf("%s: %v", c, err)
		}
	}
}

type dashboard struct {
	UID, Title string
	Panels     []struct {
		Title, Description, Type string
		Targets                  []struct{ Expr string }
		FieldConfig              struct {
			Defaults struct{ Unit, NoValue string }
		}
	}
}

func dashboards(t *testing.T) map[string]dashboard {
	t.Helper()
	names, err := fs.Glob(Chart(), "monitoring/dashboards/*.json")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]dashboard{}
	for _, name := range names {
		data, err := fs.ReadFile(Chart(), name)
		if err != nil {
			t.Fatal(err)
		}
		var d dashboard
		if err := json.Unmarshal(data, &d); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		out[filepath.Base(name)] = d
	}
	return out
}

func TestEveryPanelHasUnitDescriptionAndAWordForNoData(t *testing.T) {
	all := dashboards(t)
	if len(all) != 7 {
		t.Errorf("%d dashboards", len(all))
	}
	uids := map[string]bool{}
	for name, d := range all {
		if d.UID == "" || uids[d.UID] {
			t.Errorf("%s: uid %q", name, d.UID)
		}
		uids[d.UID] = true
		for _, p := range d.Panels {
			if p.Title == "" || p.Description == "" || p.FieldConfig.Defaults.Unit == "" || p.FieldConfig.Defaults.NoValue == "" || len(p.Targets) == 0 {
				t.Errorf("%s, panel %q: %+v", name, p.Title, p)
			}
		}
	}
}

// Every query as a recording rule, so that promtool parses it.
func TestEveryQueryOfADashboardParses(t *testing.T) {
	var b strings.Builder
	b.WriteString("groups:\n- name: queries\n  rules:\n")
	n := 0
	for _, d := range dashboards(t) {
		for _, p := range d.Panels {
			for _, q := range p.Targets {
				n++
				expr := strings.NewReplacer("$__rate_interval", "1m", "$node", ".*", "$volume", ".*").Replace(q.Expr)
				fmt.Fprintf(&b, "  - record: query_%d\n    expr: %q\n", n, expr)
			}
		}
	}
	path := filepath.Join(t.TempDir(), "queries.yaml")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", path)
}

func TestMonitoringObjectsAreMadeWhereWished(t *testing.T) {
	files, err := render(t, "monitoring: {rules: true, podMonitors: true, serviceMonitors: true, labels: {release: prom}, dashboards: {create: true}}\nnetworkPolicy: {create: true}")
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	for _, doc := range strings.Split(files["monitoring.yaml"], "\n---") {
		var o struct {
			Kind     string
			Metadata struct {
				Name   string
				Labels map[string]string
			}
			Spec struct{ Groups []any }
			Data map[string]string
		}
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			t.Fatalf("%v\n%s", err, doc)
		}
		kinds[o.Kind]++
		switch o.Kind {
		case "PrometheusRule":
			if len(o.Spec.Groups) != 2 || o.Metadata.Labels["release"] != "prom" {
				t.Errorf("%d groups, labels %v", len(o.Spec.Groups), o.Metadata.Labels)
			}
		case "ConfigMap":
			if o.Metadata.Labels["grafana_dashboard"] != "1" {
				t.Errorf("%s: labels %v", o.Metadata.Name, o.Metadata.Labels)
			}
			for name, content := range o.Data {
				if !json.Valid([]byte(content)) {
					t.Errorf("%s: %s is no JSON", o.Metadata.Name, name)
				}
			}
		}
	}
	for kind, want := range map[string]int{"PrometheusRule": 1, "PodMonitor": 3, "ServiceMonitor": 1, "Service": 1, "ConfigMap": 7, "NetworkPolicy": 1} {
		if kinds[kind] != want {
			t.Errorf("%d objects of kind %s, want %d", kinds[kind], kind, want)
		}
	}
}
