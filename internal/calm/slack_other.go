//go:build !linux

package calm

import "time"

const usualSlack = time.Duration(0)

// Exec does nothing on this system.
func Exec() error { return nil }

func slackOfThreads(time.Duration) error { return nil }

// processorTime is not known: the program is quiet when nothing touches it.
func processorTime() time.Duration { return 0 }
