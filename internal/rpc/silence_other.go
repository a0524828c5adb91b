//go:build !linux

package rpc

import "syscall"

func endInSilence(_, _ string, _ syscall.RawConn) error { return nil }
