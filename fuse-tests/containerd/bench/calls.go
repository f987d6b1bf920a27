package main

import (
	"context"
	"fmt"
	"sort"
	"sync"
	"time"

	"github.com/containerd/containerd/namespaces"
	"github.com/containerd/containerd/snapshots"
)

// The calls whose time is taken, one by one and without a mount: what the snapshotter itself costs.
var calls = []string{"prepare", "mounts", "commit", "remove"}

// oneByOne takes each call's time on each contender in turns, then that of many Prepares at once.
func oneByOne(all []*contender, samples, concurrent int) error {
	ctx := namespaces.WithNamespace(context.Background(), "bench")
	took := map[*contender]map[string][]time.Duration{}
	for _, c := range all {
		took[c] = map[string][]time.Duration{}
		if err := commitBase(ctx, c); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	// The first three warm caches and aren't counted.
	for n := -3; n < samples; n++ {
		for _, c := range all {
			if err := c.cycle(ctx, n, took[c]); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	reportCalls(all, took, samples)
	for _, c := range all {
		if err := c.many(ctx, concurrent, took[c]); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		many, one := percentile(took[c]["many"], 50), percentile(took[c]["prepare"], 50)
		fmt.Printf("%d Prepares at once %-16s %10.0f in all, %.1f times one\n", concurrent, c.name, many, many/one)
	}
	return nil
}

func commitBase(ctx context.Context, c *contender) error {
	if _, err := c.snapshotter.Prepare(ctx, "base-active", ""); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	return c.snapshotter.Commit(ctx, "base", "base-active")
}

func (c *contender) cycle(ctx context.Context, n int, took map[string][]time.Duration) error {
	key, name := fmt.Sprintf("one-%d", n), fmt.Sprintf("one-%d-done", n)
	for _, call := range []struct {
		name string
		work func() error
	}{
		{"prepare", func() error { _, err := c.snapshotter.Prepare(ctx, key, "base"); return err }},
		{"mounts", func() error { _, err := c.snapshotter.Mounts(ctx, key); return err }},
		{"commit", func() error { return c.snapshotter.Commit(ctx, name, key) }},
		{"remove", func() error { return c.snapshotter.Remove(ctx, name) }},
	} {
		begin := time.Now()
		if err := call.work(); err != nil {
			return fmt.Errorf("%s: %w", call.name, err)
		}
		if n >= 0 {
			took[call.name] = append(took[call.name], time.Since(begin))
		}
	}
	return nil
}

// many prepares so many snapshots at once and removes them again; three times, unless one takes long.
func (c *contender) many(ctx context.Context, concurrent int, took map[string][]time.Duration) error {
	for round := 0; round < 3 && (round == 0 || took["many"][0] < 5*time.Second); round++ {
		errs := make(chan error, concurrent)
		var all sync.WaitGroup
		begin := time.Now()
		for n := 0; n < concurrent; n++ {
			all.Add(1)
			go func(key string) {
				defer all.Done()
				_, err := c.snapshotter.Prepare(ctx, key, "base")
				errs <- err
			}(fmt.Sprintf("many-%d-%d", round, n))
		}
		all.Wait()
		took["many"] = append(took["many"], time.Since(begin))
		for n := 0; n < concurrent; n++ {
			if err := <-errs; err != nil {
				return fmt.Errorf("prepare among many: %w", err)
			}
			if err := c.snapshotter.Remove(ctx, fmt.Sprintf("many-%d-%d", round, n)); err != nil {
				return fmt.Errorf("remove: %w", err)
			}
		}
		if cleaner, ok := c.snapshotter.(snapshots.Cleaner); ok {
			if err := cleaner.Cleanup(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// percentile in microseconds.
func percentile(values []time.Duration, percent int) float64 {
	sorted := append([]time.Duration(nil), values...)
	sort.Slice(sorted, func(i, j int) bool { return sorted[i] < sorted[j] })
	return float64(sorted[(len(sorted)-1)*percent/100].Nanoseconds()) / 1000
}

func reportCalls(all []*contender, took map[*contender]map[string][]time.Duration, samples int) {
	fmt.Printf("%s\n%d calls of each kind in turns, microseconds, p50 / p99 (ratio of the p50 to %s)\n\n", machine(), samples, all[0].name)
	for _, call := range calls {
		baseline := percentile(took[all[0]][call], 50)
		for _, c := range all {
			p50 := percentile(took[c][call], 50)
			fmt.Printf("%-10s %-16s %10.0f / %10.0f   (%.3f)\n", call, c.name, p50, percentile(took[c][call], 99), p50/baseline)
		}
	}
}
