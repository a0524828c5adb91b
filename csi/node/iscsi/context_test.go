package iscsi

import (
	"context"
	"testing"
	"time"
)

// contextSoon bounds calls that are expected to wait in vain.
func contextSoon(t *testing.T) (context.Context, context.CancelFunc) {
	return context.WithTimeout(t.Context(), 20*time.Millisecond)
}
