package meta

import (
	"time"

	"google.golang.org/grpc/backoff"
)

// backoffConfig: members come back within seconds, so the wait between connection attempts stays short.
var backoffConfig = backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second}
