// Command blockload puts a load on one LUN and prints what it measured.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/iomesh/iomesh/internal/iscsi/initiator"
	"github.com/iomesh/iomesh/tests/bench/load"
)

func main() {
	portals := flag.String("portals", "", "host:port,… of the target")
	iqn := flag.String("iqn", "", "name of the target")
	lun := flag.Uint("lun", 1, "logical unit")
	depth := flag.Int("depth", 1, "requests in flight")
	size := flag.Int("bs", 4096, "bytes per request")
	read := flag.Int("read", 0, "percent of reads")
	span := flag.Uint64("span", 1<<30, "bytes of the LUN to use")
	seq := flag.Bool("seq", false, "sequential instead of random")
	d := flag.Duration("time", 5*time.Second, "duration")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	s, err := initiator.Dial(ctx, initiator.Options{Portals: strings.Split(*portals, ","), Target: *iqn, Initiator: "iqn.2016-02.com.iomesh:blockload",
		LUN: uint8(*lun), QueueDepth: *depth})
	if err == nil {
		var r load.Result
		r, err = load.Run(ctx, s, load.Options{ReadPercent: *read, BlockBytes: *size, Depth: *depth, SpanBytes: *span, Sequential: *seq, Duration: *d, Seed: 1}, nil)
		fmt.Println(r)
		s.Close()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "blockload:", err)
		os.Exit(1)
	}
}
