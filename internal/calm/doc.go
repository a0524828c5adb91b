// Package calm makes a daemon that has nothing to do cheap.
//
// A Go program on several processors pays for each of its wake-ups several times: a goroutine that becomes ready wakes a second thread to look for
// more work, and the runtime's monitor thread wakes up to watch both, at first every 20 µs. An idle daemon wakes up often for a short while, for
// heartbeats, and all of that is waste. So
//
//   - a Keeper lets the program use one processor (GOMAXPROCS) while it does next to nothing, and all of them as soon as there is work;
//   - the kernel may put timers off by up to Slack (PR_SET_TIMERSLACK, prctl(2)), so that several are served by one wake-up.
//
// Both cost latency: with one processor a goroutine in a system call that blocks holds up all others until the monitor notices, up to Slack later. A
// daemon with a data path says that there is work, with Touch; its timers have Slack only while it is calm, which needs CAP_SYS_NICE (Privileged),
// and Working otherwise. One without can have Slack always. Exec gives slack from the beginning, without any privilege.
//
// A busy daemon has use for slack too: while there is work, the monitor thread wakes up every 20 µs, a tenth of the processor time of a chunk under
// load on a virtual machine.
package calm

import "time"

// Slack is by how much a timer of a calm daemon may be late: nothing against the shortest interval of the block service.
const Slack = 4 * time.Millisecond

// Working is by how much a timer of a daemon with a data path may be late while there is work. A goroutine in a system call that blocks holds up
// others on its processor for about as long.
const Working = time.Millisecond
