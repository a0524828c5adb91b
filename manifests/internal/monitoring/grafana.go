package main

// json is the dashboard in Grafana's schema. Panels stand three in a row; the uid is fixed, so that links survive.
func (d dashboard) json() ([]byte, error) {
	source := map[string]any{"type": "prometheus", "uid": "${datasource}"}
	templating := []any{map[string]any{"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}}
	for _, v := range d.vars {
		q := "label_values(" + v.metric + ", " + v.label + ")"
		templating = append(templating, map[string]any{"name": v.name, "label": v.name, "type": "query", "datasource": source, "query": map[string]any{"query": q, "refId": v.name},
			"definition": q, "refresh": 2, "includeAll": true, "multi": true, "sort": 1, "current": map[string]any{"text": "All", "value": "$__all"}})
	}
	var panels []any
	const width, height, columns = 8, 8, 3
	for i, p := range d.panels {
		var targets []any
		for j, q := range p.queries {
			t := map[string]any{"refId": string(rune('A' + j)), "datasource": source, "expr": q.expr}
			if q.legend != "" {
				t["legendFormat"] = q.legend
			}
			if p.kind != graph {
				t["instant"] = true
			}
			if p.kind == list {
				t["format"] = "table"
			}
			targets = append(targets, t)
		}
		empty := p.empty
		if empty == "" {
			empty = "0"
		}
		panels = append(panels, map[string]any{
			"id": i + 1, "title": p.title, "description": p.about, "type": p.kind, "datasource": source, "targets": targets,
			"gridPos":     map[string]any{"x": i % columns * width, "y": i / columns * height, "w": width, "h": height},
			"fieldConfig": map[string]any{"defaults": map[string]any{"unit": p.unit, "noValue": empty}, "overrides": []any{}},
		})
	}
	return indented(map[string]any{
		"uid": "iomesh-" + d.file, "title": d.title, "description": d.describes, "tags": []string{"iomesh"}, "schemaVersion": 39, "editable": true, "timezone": "",
		"refresh": "30s", "time": map[string]any{"from": "now-3h", "to": "now"}, "templating": map[string]any{"list": templating}, "panels": panels, "annotations": map[string]any{"list": []any{}},
		"links": []any{map[string]any{"type": "dashboards", "tags": []string{"iomesh"}, "asDropdown": true, "title": "IOMesh"}},
	})
}
