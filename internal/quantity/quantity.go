// Package quantity reads and writes numbers of bytes as people do on a command line.
package quantity

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

var suffixes = []struct {
	name string
	size uint64
}{
	{"Ki", 1 << 10}, {"Mi", 1 << 20}, {"Gi", 1 << 30}, {"Ti", 1 << 40}, {"Pi", 1 << 50},
	{"k", 1e3}, {"M", 1e6}, {"G", 1e9}, {"T", 1e12}, {"P", 1e15},
}

// Parse reads a number of bytes: a whole number, with one of the suffixes Ki Mi Gi Ti Pi (powers of 1024) or k M G T P
// (powers of 1000), or none. Nothing else: no sign, fraction, space or exponent.
func Parse(s string) (uint64, error) {
	digits, unit := s, uint64(1)
	for _, x := range suffixes {
		if d, ok := strings.CutSuffix(s, x.name); ok {
			digits, unit = d, x.size
			break
		}
	}
	bad := fmt.Errorf("%q is not a size: want a whole number with an optional suffix, as in 512Mi, 10Gi, 2Ti", s)
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, bad
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || n > math.MaxUint64/unit {
		return 0, fmt.Errorf("%q is too large", s)
	}
	return n * unit, nil
}

// Text is a number of bytes for people, with a power of 1024 and at most one decimal: 1.5Gi.
func Text(n uint64) string {
	for i := 4; i >= 0; i-- {
		if n >= suffixes[i].size {
			return strings.TrimSuffix(strconv.FormatFloat(float64(n)/float64(suffixes[i].size), 'f', 1, 64), ".0") + suffixes[i].name
		}
	}
	return strconv.FormatUint(n, 10)
}

// Flag is a number of bytes as a command line flag (pflag.Value).
type Flag uint64

// Set implements pflag.Value.
func (q *Flag) Set(s string) error {
	n, err := Parse(s)
	*q = Flag(n)
	return err
}

// String implements pflag.Value.
func (q *Flag) String() string {
	if *q == 0 {
		return ""
	}
	return strconv.FormatUint(uint64(*q), 10)
}

// Type implements pflag.Value.
func (q *Flag) Type() string { return "size" }
