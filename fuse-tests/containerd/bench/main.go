// Command bench runs containerd's own snapshotter benchmark shape on thinfs and, turn by turn, on containerd's own
// snapshotters: sixteen layers of ten files of 1 MiB, some written, some changed in four bytes, some removed. Each
// layer is prepared, mounted, written, unmounted and committed; at the end all are removed, top first.
//
//	bench -thinfs BIN -work DIR [-backend native|thin] [-against overlayfs,native,devmapper] [-rounds N | -calls N]
//
// thinfs and containerd's snapshotters are not asked for the same: thinfs has a layer on disk when Commit returns,
// containerd's leave that to the kernel. What was written is therefore flushed between turns, unmeasured.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/mount"
	"github.com/containerd/containerd/namespaces"
	"github.com/containerd/containerd/snapshots"
)

const layerCount = 16

// The steps whose time is taken.
var steps = []string{"prepare", "mount", "write", "unmount", "commit", "remove"}

// contender is one snapshotter and the time that each step took it in each round.
type contender struct {
	name        string
	snapshotter snapshots.Snapshotter
	stop        func() error
	times       map[string][]time.Duration
	// Of a daemon, if there is one of its own.
	pid   int
	spent spent
}

func main() {
	bin := flag.String("thinfs", "", "the thinfs binary")
	work := flag.String("work", "", "a directory on the filesystem to measure on")
	backend := flag.String("backend", "native", "thinfs's backend")
	against := flag.String("against", "overlayfs,native", "containerd's snapshotters, the baseline first")
	rounds := flag.Int("rounds", 7, "turns of each")
	samples := flag.Int("calls", 0, "instead of layers, so many single calls of each kind, without mounts")
	concurrent := flag.Int("concurrent", 100, "with -calls: how many Prepares at once")
	flag.Parse()
	measure := func(all []*contender, target string) error { return layers(all, target, *rounds) }
	if *samples > 0 {
		measure = func(all []*contender, _ string) error { return oneByOne(all, *samples, *concurrent) }
	}
	if err := run(*bin, *work, *backend, strings.Split(*against, ","), measure); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(bin, work, backend string, against []string, measure func([]*contender, string) error) (err error) {
	work, err = os.MkdirTemp(work, "bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	var all []*contender
	defer func() {
		for _, c := range all {
			if stopErr := c.stop(); stopErr != nil && err == nil {
				err = fmt.Errorf("stop %s: %w", c.name, stopErr)
			}
		}
	}()
	names := append(against, "thinfs")
	if backend == "thin" {
		names = append(names, "thinfs-block")
	}
	for _, name := range names {
		dir := filepath.Join(work, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		c, err := start(name, dir, bin, backend)
		if err != nil {
			return fmt.Errorf("start %s: %w", name, err)
		}
		all = append(all, c)
	}
	target := filepath.Join(work, "target")
	if err := os.Mkdir(target, 0o700); err != nil {
		return err
	}
	return measure(all, target)
}

func layers(all []*contender, target string, rounds int) error {
	// The first round warms caches, formats thinfs's template, and isn't counted.
	for round := -1; round < rounds; round++ {
		for _, c := range all {
			syscall.Sync()
			if err := c.round(target, round); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	report(all, rounds)
	return nil
}

// round writes one chain of layers and removes it.
func (c *contender) round(target string, round int) error {
	ctx := namespaces.WithNamespace(context.Background(), "bench")
	timed := func(step string, work func() error) error {
		begin := time.Now()
		err := work()
		if round >= 0 {
			for len(c.times[step]) <= round {
				c.times[step] = append(c.times[step], 0)
			}
			c.times[step][round] += time.Since(begin)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", step, err)
		}
		return nil
	}
	parent := ""
	var chain []string
	for layer := 1; layer <= layerCount; layer++ {
		key, name := fmt.Sprintf("active-%d-%d", round, layer), fmt.Sprintf("layer-%d-%d", round, layer)
		var mounts []mount.Mount
		for _, s := range []struct {
			step string
			work func() error
		}{
			{"prepare", func() (err error) { mounts, err = c.snapshotter.Prepare(ctx, key, parent); return err }},
			{"mount", func() error { return mount.All(mounts, target) }},
			{"write", func() error { return write(target, layer) }},
			{"unmount", func() error { return mount.UnmountAll(target, 0) }},
			{"commit", func() error { return c.snapshotter.Commit(ctx, name, key) }},
		} {
			if err := timed(s.step, s.work); err != nil {
				return err
			}
		}
		parent, chain = name, append(chain, name)
	}
	for i := len(chain) - 1; i >= 0; i-- {
		if err := timed("remove", func() error { return c.snapshotter.Remove(ctx, chain[i]) }); err != nil {
			return err
		}
	}
	// What Remove only announces is done here, unmeasured, by those who can.
	if cleaner, ok := c.snapshotter.(snapshots.Cleaner); ok {
		return cleaner.Cleanup(ctx)
	}
	return nil
}

// report prints milliseconds a layer, medians over the rounds, and ratios to the first contender.
func report(all []*contender, rounds int) {
	fmt.Printf("%s\n%d layers of 1 MiB files, median of %d rounds taken in turns; milliseconds a layer (ratio to %s)\n\n", machine(), layerCount, rounds, all[0].name)
	fmt.Printf("%-16s", "")
	for _, step := range append(steps, "all") {
		fmt.Printf("%18s", step)
	}
	fmt.Println()
	baseline := all[0].medians()
	for _, c := range all {
		fmt.Printf("%-16s", c.name)
		for step, median := range c.medians() {
			fmt.Printf("%10.2f %7s", median, fmt.Sprintf("(%.2f)", median/baseline[step]))
		}
		fmt.Println()
	}
}

// medians of each step in order, and of the sum of all steps.
func (c *contender) medians() []float64 {
	middle := func(values []time.Duration) float64 {
		sorted := append([]time.Duration(nil), values...)
		sort.Slice(sorted, func(i, j int) bool { return sorted[i] < sorted[j] })
		return float64(sorted[len(sorted)/2].Microseconds()) / 1000 / layerCount
	}
	var medians []float64
	var sums []time.Duration
	for _, step := range steps {
		medians = append(medians, middle(c.times[step]))
		for round, t := range c.times[step] {
			if len(sums) <= round {
				sums = append(sums, 0)
			}
			sums[round] += t
		}
	}
	return append(medians, middle(sums))
}

// machine names kernel and processor, for whoever compares numbers.
func machine() string {
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	info, _ := os.ReadFile("/proc/cpuinfo")
	model := "unknown processor"
	for _, line := range strings.Split(string(info), "\n") {
		if strings.HasPrefix(line, "model name") {
			model = strings.TrimSpace(line[strings.Index(line, ":")+1:])
			break
		}
	}
	return fmt.Sprintf("Linux %s, %d × %s", strings.TrimSpace(string(release)), runtime.NumCPU(), model)
}
