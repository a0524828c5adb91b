//go:build !linux

package calm

import "time"

// Exec does nothing on this system.
func Exec(time.Duration) error { return nil }

func slackOfThreads(time.Duration) error { return nil }

// processorTime is not known: the program is quiet when nothing touches it.
func processorTime() time.Duration { return 0 }
