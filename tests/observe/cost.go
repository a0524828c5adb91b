package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/iomesh/iomesh/internal/iscsi/initiator"
	"github.com/iomesh/iomesh/tests/faults/cluster"
)

// cost measures writes per second with and without being scraped, in turns, and the series per volume.
func (o *observer) cost(ctx context.Context) error {
	const turns, depth, each = 5, 16, 4 * time.Second
	burst := func() (float64, error) {
		s, err := initiator.Dial(ctx, initiator.Options{Portals: []string{cluster.Portal}, Target: o.volumes["data"].Iqn, Initiator: observerName + "-cost"})
		if err != nil {
			return 0, err
		}
		defer s.Close()
		var wg sync.WaitGroup
		counts := make([]int, depth)
		until := time.Now().Add(each)
		for i := range depth {
			wg.Go(func() {
				buf := make([]byte, 4096)
				for n := 0; time.Now().Before(until); n++ {
					if s.WriteAt(ctx, buf, uint64(16<<20+(i*256+n%256)*4096)) != nil {
						return
					}
					counts[i]++
				}
			})
		}
		wg.Wait()
		sum := 0
		for _, n := range counts {
			sum += n
		}
		return float64(sum) / each.Seconds(), nil
	}
	var ratios, with []float64
	for range turns {
		a, err := burst()
		if err != nil {
			return err
		}
		o.stopPrometheus()
		b, err := burst()
		if err != nil {
			return err
		}
		if err := o.startPrometheus(ctx); err != nil {
			return err
		}
		await(ctx, 20*time.Second, func() bool { _, _, err := query(ctx, "up"); return err == nil })
		ratios, with = append(ratios, a/b), append(with, a)
	}
	slices.Sort(ratios)
	slices.Sort(with)
	series := "?"
	if _, v, err := query(ctx, `count({volume!=""}) / count(iomesh_volume_info)`); err == nil && len(v) == 1 {
		if f, err := strconv.ParseFloat(v[0], 64); err == nil {
			series = fmt.Sprintf("%.0f", f)
		}
	}
	fmt.Printf("cost: %.0f writes/s while scraped each second; median of %d ratios to unscraped %.2f (%.2f to %.2f); %s series per volume\n",
		with[len(with)/2], turns, ratios[len(ratios)/2], ratios[0], ratios[len(ratios)-1], series)
	return nil
}
