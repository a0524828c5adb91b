package output

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"k8s.io/client-go/util/jsonpath"
	"sigs.k8s.io/yaml"

	"github.com/iomesh/iomesh/kubectl-iomesh/fault"
)

// APIVersion of all values that the plugin prints.
const APIVersion = "cli.iomesh.com/v1"

// Meta begins every printed value.
type Meta struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
}

// Of returns the Meta of a kind.
func Of(kind string) Meta { return Meta{APIVersion: APIVersion, Kind: kind} }

// Value is something to print.
type Value interface {
	// Table draws for people; wide has more columns.
	Table(p *Page, wide bool)
	// Names are the lines of -o name: "kind/name".
	Names() []string
}

// Format is a parsed -o.
type Format struct {
	kind string
	path *jsonpath.JSONPath
}

// Parse reads the value of -o.
func Parse(o string) (Format, error) {
	kind, template, has := strings.Cut(o, "=")
	switch kind {
	case "", "table":
		kind = "table"
	case "wide", "json", "yaml", "name":
	case "jsonpath":
		if template == "" {
			return Format{}, fault.Usage("-o jsonpath needs a template: -o jsonpath='{.items[0].name}'")
		}
		if !strings.Contains(template, "{") {
			template = "{" + template + "}"
		}
		jp := jsonpath.New("output").AllowMissingKeys(true)
		if err := jp.Parse(template); err != nil {
			return Format{}, fault.Usage("-o jsonpath: %v", err)
		}
		return Format{kind: kind, path: jp}, nil
	default:
		return Format{}, fault.Usage("-o %s: unknown format; use table, wide, json, yaml, name or jsonpath=TEMPLATE", o)
	}
	if has {
		return Format{}, fault.Usage("-o %s takes no template", kind)
	}
	return Format{kind: kind}, nil
}

// ForPeople reports whether the format is a table.
func (f Format) ForPeople() bool { return f.kind == "table" || f.kind == "wide" || f.kind == "" }

// Print renders the value.
func (f Format) Print(w io.Writer, v Value, color bool) error {
	switch f.kind {
	case "json":
		b, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return fmt.Errorf("encode output: %w", err)
		}
		_, err = fmt.Fprintln(w, string(b))
		return err
	case "yaml":
		b, err := yaml.Marshal(v)
		if err != nil {
			return fmt.Errorf("encode output: %w", err)
		}
		_, err = w.Write(b)
		return err
	case "name":
		for _, n := range v.Names() {
			if _, err := fmt.Fprintln(w, n); err != nil {
				return err
			}
		}
		return nil
	case "jsonpath":
		b, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("encode output: %w", err)
		}
		var plain any
		d := json.NewDecoder(bytes.NewReader(b))
		d.UseNumber() // bytes stay integers
		if err := d.Decode(&plain); err != nil {
			return fmt.Errorf("encode output: %w", err)
		}
		if err := f.path.Execute(w, plain); err != nil {
			return fault.Usage("-o jsonpath: %v", err)
		}
		_, err = fmt.Fprintln(w)
		return err
	}
	p := &Page{color: color}
	v.Table(p, f.kind == "wide")
	_, err := io.WriteString(w, p.String())
	return err
}
