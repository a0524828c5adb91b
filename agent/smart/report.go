package smart

import (
	"fmt"
	"strings"
)

// Verdict is what a disk says of itself.
type Verdict uint8

// Verdicts. The zero value is that nothing is known.
const (
	Unknown Verdict = iota
	Passed
	Failed
)

func (v Verdict) String() string { return [...]string{"Unknown", "Passed", "Failed"}[v] }

// Report is what one disk said. Pointers are nil where it did not say.
type Report struct {
	// Verdict is the disk's own; Failed means that it expects to fail soon.
	Verdict Verdict
	// SelfTest is how its last self-test ended.
	SelfTest Verdict
	// Reasons say why either is Failed, and of an excessive temperature; for people.
	Reasons []string
	// LifeLeft is in percent, 0 to 100. It reaches 0 when the maker's estimate is used up, which is not yet a failure.
	LifeLeft *int32
	// Temperature is in degrees Celsius.
	Temperature *int32
	// PowerOnHours counts hours of work.
	PowerOnHours *int64
	// MediaErrors counts data that could not be read back (NVMe), ReallocatedSectors and PendingSectors sectors that were replaced and that
	// cannot be read now (ATA).
	MediaErrors        *int64
	ReallocatedSectors *int64
	PendingSectors     *int64
}

// Failing reports whether the disk, or its self-test, says that it fails.
func (r *Report) Failing() bool { return r.Verdict == Failed || r.SelfTest == Failed }

// Reason is all reasons in one line.
func (r *Report) Reason() string { return strings.Join(r.Reasons, "; ") }

func (r *Report) because(format string, args ...any) {
	r.Reasons = append(r.Reasons, fmt.Sprintf(format, args...))
}

func of[T any](v T) *T { return &v }

// left is 100 minus a percentage used, which may exceed 100.
func left(used byte) *int32 { return of(max(0, 100-int32(used))) }
