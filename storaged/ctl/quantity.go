package ctl

import "github.com/iomesh/iomesh/internal/quantity"

// bytesText is a number of bytes for people.
func bytesText(n uint64) string { return quantity.Text(n) }
