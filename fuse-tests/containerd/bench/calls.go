package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/namespaces"
	"github.com/containerd/containerd/snapshots"
)

// The calls whose time is taken, one by one and without a mount: what the snapshotter itself costs.
var calls = []string{"prepare", "stat", "mounts", "commit", "remove"}

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
		if c.pid == 0 {
			continue
		}
		fmt.Printf("  processor time of %s (the ticks of %d rounds)\n", c.spent, len(took[c]["many"]))
		for _, other := range []string{"views", "stats"} {
			fmt.Printf("  %d %s at once %26.0f in all\n", concurrent, other, percentile(took[c][other], 50))
		}
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
		{"stat", func() error { _, err := c.snapshotter.Stat(ctx, key); return err }},
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

// many prepares so many snapshots at once and removes them again; seven times, unless one takes long. Of a daemon also what a
// View at once costs, which is all but the message to the pool, and a Stat, which is the way there and back.
func (c *contender) many(ctx context.Context, concurrent int, took map[string][]time.Duration) error {
	for round := 0; round < 7 && (round == 0 || took["many"][0] < 2*time.Second); round++ {
		many, view := fmt.Sprintf("many-%d-", round), fmt.Sprintf("view-%d-", round)
		before := times(c.pid)
		err := atOnce(concurrent, took, "many", func(n int) error {
			_, err := c.snapshotter.Prepare(ctx, many+fmt.Sprint(n), "base")
			return err
		})
		c.spent = c.spent.and(times(c.pid).without(before))
		if err == nil && c.pid != 0 {
			err = atOnce(concurrent, took, "stats", func(n int) error {
				_, err := c.snapshotter.Stat(ctx, many+fmt.Sprint(n))
				return err
			})
		}
		if err == nil && c.pid != 0 {
			err = atOnce(concurrent, took, "views", func(n int) error {
				_, err := c.snapshotter.View(ctx, view+fmt.Sprint(n), "base")
				return err
			})
		}
		if err != nil {
			return fmt.Errorf("one of many: %w", err)
		}
		for n := 0; n < concurrent; n++ {
			if err := c.snapshotter.Remove(ctx, many+fmt.Sprint(n)); err != nil {
				return fmt.Errorf("remove: %w", err)
			}
			if c.pid == 0 {
				continue
			}
			if err := c.snapshotter.Remove(ctx, view+fmt.Sprint(n)); err != nil {
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

// atOnce makes so many calls at the same time, and notes how long all of them took.
func atOnce(concurrent int, took map[string][]time.Duration, name string, call func(n int) error) error {
	errs := make(chan error, concurrent)
	var all sync.WaitGroup
	begin := time.Now()
	for n := 0; n < concurrent; n++ {
		all.Add(1)
		go func(n int) {
			defer all.Done()
			errs <- call(n)
		}(n)
	}
	all.Wait()
	took[name] = append(took[name], time.Since(begin))
	for n := 0; n < concurrent; n++ {
		if err := <-errs; err != nil {
			return err
		}
	}
	return nil
}

// spent is processor time, counted by the kernel's ticks.
type spent struct{ client, daemon time.Duration }

func (s spent) String() string { return fmt.Sprintf("client %v, daemon %v", s.client, s.daemon) }

func (s spent) and(more spent) spent {
	return spent{s.client + more.client, s.daemon + more.daemon}
}

func (s spent) without(before spent) spent {
	return spent{s.client - before.client, s.daemon - before.daemon}
}

// times reads what this process and the daemon have used so far; without a daemon nothing.
func times(daemon int) spent {
	if daemon == 0 {
		return spent{}
	}
	return spent{ticks("self"), ticks(fmt.Sprint(daemon))}
}

func ticks(process string) time.Duration {
	stat, _ := os.ReadFile("/proc/" + process + "/stat")
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
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
