// Package suite runs containerd's own snapshotter conformance suite, through containerd's own gRPC proxy
// client, against a live thinfs daemon: a fresh one for each case, or one shared by all cases.
//
// Environment:
//
//	THINFS_BIN       path of the thinfs binary
//	THINFS_BACKEND   native or thin (default native)
//	THINFS_WORK      directory for roots and sockets, on a filesystem with file handles (default: TMPDIR)
//	THINFS_SHARED=1  one daemon for all cases; each case then works in a key space of its own
package suite

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/mount"
	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/containerd/snapshots/proxy"
	"github.com/containerd/containerd/snapshots/testsuite"
	"google.golang.org/grpc"
)

// daemon is one running `thinfs serve`.
type daemon struct {
	root, mount, socket string
	cmd                 *exec.Cmd
	log                 *os.File
	ended               chan error
}

func startDaemon(dir string) (*daemon, error) {
	bin := os.Getenv("THINFS_BIN")
	if bin == "" {
		return nil, fmt.Errorf("THINFS_BIN is not set: name the thinfs binary to test")
	}
	backend := os.Getenv("THINFS_BACKEND")
	if backend == "" {
		backend = "native"
	}
	d := &daemon{
		root:   dir,
		mount:  filepath.Join(dir, "mnt"),
		socket: filepath.Join(dir, "s"),
	}
	if err := os.MkdirAll(d.mount, 0o755); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	d.log = log
	args := []string{"serve", "--root", d.root, "--mount", d.mount, "--socket", d.socket, "--backend", backend}
	if size := os.Getenv("THINFS_TEST_POOL_SIZE"); size != "" && backend == "thin" {
		args = append(args, "--pool-size", size)
	}
	d.cmd = exec.Command(bin, args...)
	d.cmd.Stdout, d.cmd.Stderr = log, log
	// No daemon outlives a suite that is killed or times out.
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	d.ended = make(chan error, 1)
	go func() { d.ended <- d.cmd.Wait() }()
	began := time.Now()
	deadline := began.Add(60 * time.Second)
	for {
		c, err := net.Dial("unix", d.socket)
		if err == nil {
			c.Close()
			starts.Lock()
			starts.took = append(starts.took, time.Since(began))
			starts.Unlock()
			return d, nil
		}
		if time.Now().After(deadline) {
			d.cmd.Process.Kill()
			<-d.ended
			return nil, fmt.Errorf("the daemon's socket did not appear: %w\n%s", err, d.tail())
		}
		select {
		case err := <-d.ended:
			return nil, fmt.Errorf("thinfs serve ended at once: %v\n%s", err, d.tail())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (d *daemon) tail() string {
	b, _ := os.ReadFile(d.log.Name())
	if len(b) > 4000 {
		b = b[len(b)-4000:]
	}
	return string(b)
}

// stop ends the daemon as systemd would and checks that it left nothing behind.
func (d *daemon) stop() error {
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	timer := time.AfterFunc(60*time.Second, func() { d.cmd.Process.Kill() })
	err := <-d.ended
	timer.Stop()
	d.log.Close()
	if err != nil {
		return fmt.Errorf("thinfs serve ended with %w\n%s", err, d.tail())
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	if strings.Contains(string(mounts), d.root+"/") {
		return fmt.Errorf("a mount below %s was left behind", d.root)
	}
	return d.devicesAreGone()
}

// devicesAreGone looks for device-mapper devices, whose names begin with the root's identity, and for loop devices on
// the root's files.
func (d *daemon) devicesAreGone() error {
	identity, err := os.ReadFile(filepath.Join(d.root, "thin", "identity"))
	if os.IsNotExist(err) {
		return nil // plain directories
	} else if err != nil {
		return err
	}
	for pattern, ours := range map[string]string{
		"/sys/block/*/dm/name":           "thinfs-" + strings.TrimSpace(string(identity)),
		"/sys/block/*/loop/backing_file": d.root + "/",
	} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, file := range files {
			// What is gone by now was another daemon's.
			if name, _ := os.ReadFile(file); strings.HasPrefix(string(name), ours) {
				return fmt.Errorf("the device %s (%s) was left behind", filepath.Dir(file), strings.TrimSpace(string(name)))
			}
		}
	}
	return nil
}

// starts is how long daemons took to serve.
var starts struct {
	sync.Mutex
	took []time.Duration
}

func reportStarts() {
	starts.Lock()
	defer starts.Unlock()
	sort.Slice(starts.took, func(i, j int) bool { return starts.took[i] < starts.took[j] })
	if n := len(starts.took); n > 0 {
		fmt.Printf("%d daemons served after %v (median), %v at most\n", n, starts.took[n/2], starts.took[n-1])
	}
}

func dial(socket string) (*grpc.ClientConn, error) {
	return grpc.Dial("unix://"+socket, grpc.WithInsecure(), grpc.WithBlock(), grpc.WithTimeout(20*time.Second))
}

// client closes nothing on Close: containerd's CloseTwice case calls it twice on one snapshotter.
type client struct {
	snapshots.Snapshotter
}

func (client) Close() error { return nil }

// spaced gives one case of the suite a key space of its own on a daemon that other cases use too. The
// suite writes keys such as "c1" in every case; containerd's metadata store keeps them apart in the same way.
type spaced struct {
	snapshots.Snapshotter
	prefix string
}

func (s spaced) in(key string) string {
	if key == "" {
		return ""
	}
	return s.prefix + key
}

func (s spaced) out(info snapshots.Info) snapshots.Info {
	info.Name = strings.TrimPrefix(info.Name, s.prefix)
	info.Parent = strings.TrimPrefix(info.Parent, s.prefix)
	return info
}

func (s spaced) Close() error { return nil }

func (s spaced) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	info, err := s.Snapshotter.Stat(ctx, s.in(key))
	return s.out(info), err
}

func (s spaced) Update(ctx context.Context, info snapshots.Info, fieldpaths ...string) (snapshots.Info, error) {
	info.Name = s.in(info.Name)
	info, err := s.Snapshotter.Update(ctx, info, fieldpaths...)
	return s.out(info), err
}

func (s spaced) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	return s.Snapshotter.Usage(ctx, s.in(key))
}

func (s spaced) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	return s.Snapshotter.Mounts(ctx, s.in(key))
}

func (s spaced) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return s.Snapshotter.Prepare(ctx, s.in(key), s.in(parent), opts...)
}

func (s spaced) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return s.Snapshotter.View(ctx, s.in(key), s.in(parent), opts...)
}

func (s spaced) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	return s.Snapshotter.Commit(ctx, s.in(name), s.in(key), opts...)
}

func (s spaced) Remove(ctx context.Context, key string) error {
	return s.Snapshotter.Remove(ctx, s.in(key))
}

// exactKey is a comparison of a key with a plain word: the only form in which the suite's filters name keys.
var exactKey = regexp.MustCompile(`(^|,)(name|parent)==([^",]+)`)

func (s spaced) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	here := make([]string, 0, len(filters))
	for _, filter := range filters {
		here = append(here, exactKey.ReplaceAllString(filter, `$1$2=="`+s.prefix+`$3"`))
	}
	return s.Snapshotter.Walk(ctx, func(ctx context.Context, info snapshots.Info) error {
		if !strings.HasPrefix(info.Name, s.prefix) {
			return nil
		}
		return fn(ctx, s.out(info))
	}, here...)
}

// forCases makes the factory that the suite calls once a case.
func forCases(t *testing.T) testsuite.SnapshotterFunc {
	work := os.Getenv("THINFS_WORK")
	if work == "" {
		work = os.TempDir()
	}
	if os.Getenv("THINFS_SHARED") == "" {
		return func(ctx context.Context, _ string) (snapshots.Snapshotter, func() error, error) {
			dir, err := os.MkdirTemp(work, "thinfs-suite-")
			if err != nil {
				return nil, nil, err
			}
			d, err := startDaemon(dir)
			if err != nil {
				return nil, nil, err
			}
			conn, err := dial(d.socket)
			if err != nil {
				return nil, nil, err
			}
			sn := client{proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "thinfs")}
			return sn, func() error {
				conn.Close()
				if err := d.stop(); err != nil {
					return err
				}
				return os.RemoveAll(dir)
			}, nil
		}
	}
	dir, err := os.MkdirTemp(work, "thinfs-suite-")
	if err != nil {
		t.Fatal(err)
	}
	d, err := startDaemon(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.stop(); err != nil {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	var cases atomic.Int64
	return func(ctx context.Context, _ string) (snapshots.Snapshotter, func() error, error) {
		conn, err := dial(d.socket)
		if err != nil {
			return nil, nil, err
		}
		sn := spaced{
			Snapshotter: proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "thinfs"),
			prefix:      fmt.Sprintf("case-%d/", cases.Add(1)),
		}
		return sn, conn.Close, nil
	}
}

func TestConformance(t *testing.T) {
	t.Cleanup(reportStarts)
	testsuite.SnapshotterSuite(t, "thinfs", forCases(t))
}
