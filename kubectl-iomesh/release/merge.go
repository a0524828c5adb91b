package release

import (
	"maps"
	"strings"
)

// Merge returns base with over laid on top: maps are merged, everything else is replaced. Neither argument is changed.
func Merge(base, over map[string]any) map[string]any {
	out := maps.Clone(base)
	if out == nil {
		out = map[string]any{}
	}
	for k, v := range over {
		if m, ok := v.(map[string]any); ok {
			if old, ok := out[k].(map[string]any); ok {
				out[k] = Merge(old, m)
				continue
			}
		}
		out[k] = v
	}
	return out
}

// Put returns values with one entry set, at a path of keys with dots between them.
func Put(values map[string]any, path string, v any) map[string]any {
	keys := strings.Split(path, ".")
	for i := len(keys) - 1; i >= 0; i-- {
		v = map[string]any{keys[i]: v}
	}
	return Merge(values, v.(map[string]any))
}

// Replace is Put that does not merge a map into what is there.
func Replace(values map[string]any, path string, v any) map[string]any {
	key, rest, nested := strings.Cut(path, ".")
	out := maps.Clone(values)
	if out == nil {
		out = map[string]any{}
	}
	if !nested {
		out[key] = v
		return out
	}
	inner, _ := out[key].(map[string]any)
	out[key] = Replace(inner, rest, v)
	return out
}
