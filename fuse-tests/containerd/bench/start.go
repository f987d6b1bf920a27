package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/containerd/snapshots/devmapper"
	"github.com/containerd/containerd/snapshots/native"
	"github.com/containerd/containerd/snapshots/overlay"
	"github.com/containerd/containerd/snapshots/proxy"
	"google.golang.org/grpc"
)

// Room for one chain of layers and its removal in the background.
const poolSize = "4G"

func start(name, dir, bin, backend string) (*contender, error) {
	c := &contender{name: name, times: map[string][]time.Duration{}}
	var err error
	switch name {
	case "overlayfs":
		c.snapshotter, err = overlay.NewSnapshotter(dir)
	case "native":
		c.snapshotter, err = native.NewSnapshotter(dir)
	case "devmapper":
		return c, startDevmapper(c, dir)
	case "thinfs":
		c.name += " (" + backend + ")"
		return c, startThinfs(c, dir, bin, backend)
	case "thinfs-block":
		c.name = "thinfs (block)"
		return c, startThinfs(c, dir, bin, backend, "--mount-form", "block")
	default:
		err = fmt.Errorf("unknown snapshotter")
	}
	c.stop = func() error { return c.snapshotter.Close() }
	return c, err
}

func startThinfs(c *contender, dir, bin, backend string, flags ...string) error {
	root, mount, socket := dir, filepath.Join(dir, "mnt"), filepath.Join(dir, "s")
	if err := os.Mkdir(mount, 0o755); err != nil {
		return err
	}
	args := []string{"serve", "--root", root, "--mount", mount, "--socket", socket, "--backend", backend}
	if backend == "thin" {
		args = append(args, "--pool-size", poolSize)
	}
	daemon := exec.Command(bin, append(args, flags...)...)
	daemon.Stderr = os.Stderr
	daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := daemon.Start(); err != nil {
		return err
	}
	c.pid = daemon.Process.Pid
	c.stop = func() error {
		daemon.Process.Signal(syscall.SIGTERM)
		return daemon.Wait()
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		probe, err := net.Dial("unix", socket)
		if err == nil {
			probe.Close()
			break
		}
		if time.Now().After(deadline) {
			c.stop()
			return fmt.Errorf("the daemon's socket did not appear: %w", err)
		}
	}
	conn, err := grpc.Dial("unix://"+socket, grpc.WithInsecure(), grpc.WithBlock(), grpc.WithTimeout(20*time.Second))
	if err != nil {
		c.stop()
		return err
	}
	c.snapshotter = proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), c.name)
	return nil
}

// startDevmapper makes a pool on loop devices beside the others' files, as thinfs does for itself.
func startDevmapper(c *contender, dir string) error {
	var undo []func() error
	c.stop = func() error {
		var first error
		for i := len(undo) - 1; i >= 0; i-- {
			if err := undo[i](); err != nil && first == nil {
				first = err
			}
		}
		return first
	}
	loop := func(file, size string) (string, error) {
		path := filepath.Join(dir, file)
		if _, err := output("truncate", "-s", size, path); err != nil {
			return "", err
		}
		device, err := output("losetup", "--find", "--show", "--direct-io=on", path)
		if err == nil {
			undo = append(undo, func() error { _, err := output("losetup", "-d", device); return err })
		}
		return device, err
	}
	metadata, err := loop("metadata", "64M")
	if err != nil {
		return err
	}
	data, err := loop("data", poolSize)
	if err != nil {
		return err
	}
	sectors, err := output("blockdev", "--getsz", data)
	if err != nil {
		return err
	}
	const pool = "thinfs-bench-devmapper"
	if _, err := output("dmsetup", "create", pool, "--table", fmt.Sprintf("0 %s thin-pool %s %s 128 0 1 skip_block_zeroing", sectors, metadata, data)); err != nil {
		return err
	}
	undo = append(undo, func() error { _, err := output("dmsetup", "remove", "--retry", pool); return err })
	config := &devmapper.Config{PoolName: pool, RootPath: dir, BaseImageSize: "1Gb", BaseImageSizeBytes: 1 << 30, FileSystemType: "ext4"}
	snapshotter, err := devmapper.NewSnapshotter(context.Background(), config)
	if err != nil {
		return err
	}
	undo = append(undo, func() error {
		if err := snapshotter.ResetPool(context.Background()); err != nil {
			return err
		}
		return snapshotter.Close()
	})
	c.snapshotter = snapshots.Snapshotter(snapshotter)
	return nil
}

func output(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}
