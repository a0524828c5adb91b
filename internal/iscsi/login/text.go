package login

import (
	"bytes"
	"fmt"
	"strings"
)

// Bounds on what a peer can make us hold or do.
const (
	// TextMax is the longest text of one request, over all its PDUs, in bytes.
	TextMax = 64 << 10
	// SegmentMax is the longest data segment before negotiation (RFC 7143 §13.12), in bytes.
	SegmentMax = 8192
	// RoundsMax is the number of requests after which a login is given up.
	RoundsMax = 32
	keysMax   = 128
	keyMax    = 63
	valueMax  = 8192
	// NameMax is the longest iSCSI name in bytes (RFC 7143 §4.2.7.1).
	NameMax = 223
)

// Pair is one "key=value".
type Pair struct{ Key, Value string }

// Text is an ordered list of pairs.
type Text []Pair

// Get returns the first value of a key.
func (t Text) Get(key string) (string, bool) {
	for _, p := range t {
		if p.Key == key {
			return p.Value, true
		}
	}
	return "", false
}

// Add appends a pair.
func (t *Text) Add(key, value string) { *t = append(*t, Pair{key, value}) }

// Encode returns the wire form: each pair ends with a zero byte.
func (t Text) Encode() []byte {
	var b []byte
	for _, p := range t {
		b = append(b, p.Key...)
		b = append(b, '=')
		b = append(b, p.Value...)
		b = append(b, 0)
	}
	return b
}

// ParseText reads the wire form. A key given twice is an error (RFC 7143 §6.1), as is anything longer than the bounds.
func ParseText(data []byte) (Text, error) {
	if len(data) > TextMax {
		return nil, fmt.Errorf("text of %d bytes exceeds %d", len(data), TextMax)
	}
	var t Text
	for len(data) > 0 {
		end := bytes.IndexByte(data, 0)
		item := data
		if end >= 0 {
			item, data = data[:end], data[end+1:]
		} else {
			data = nil
		}
		if len(item) == 0 {
			continue // padding
		}
		key, value, ok := strings.Cut(string(item), "=")
		if !ok || key == "" || len(key) > keyMax {
			return nil, fmt.Errorf("text item %.40q is not key=value", item)
		}
		if len(value) > valueMax {
			return nil, fmt.Errorf("value of key %s has %d bytes, at most %d are allowed", key, len(value), valueMax)
		}
		for i := range len(key) {
			if key[i] <= ' ' || key[i] > '~' {
				return nil, fmt.Errorf("key %q has a character outside of printable ASCII", key)
			}
		}
		if _, twice := t.Get(key); twice {
			return nil, fmt.Errorf("key %s is given twice", key)
		}
		if len(t) == keysMax {
			return nil, fmt.Errorf("more than %d keys", keysMax)
		}
		t.Add(key, value)
	}
	return t, nil
}

// NormalName returns an iSCSI name in lower case, or an error if it is not one (RFC 7143 §4.2.7).
func NormalName(name string) (string, error) {
	if name == "" {
		return "", fmt.Errorf("iSCSI name is empty")
	}
	if len(name) > NameMax {
		return "", fmt.Errorf("iSCSI name %.40q… has %d bytes, at most %d are allowed", name, len(name), NameMax)
	}
	lower := strings.ToLower(name)
	for i := range len(lower) {
		c := lower[i]
		if c <= ' ' || c == 0x7f || c == ',' || c == '/' || c == ';' {
			return "", fmt.Errorf("iSCSI name %q has the forbidden character %q", name, c)
		}
	}
	return lower, nil
}
