package chunk

import (
	"golang.org/x/sys/unix"

	"github.com/iomesh/iomesh/storaged/replication"
)

// boottime reads CLOCK_BOOTTIME, which goes on while the process or the machine sleeps: a promise that ended meanwhile has
// ended (I4).
func boottime() replication.Time {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("CLOCK_BOOTTIME cannot be read: " + err.Error())
	}
	return replication.Time(ts.Nano())
}
