// Command probe is what the tests run inside a container: it uses a filesystem the way programs do, and says what the
// kernel gave it. Static, so that it runs in an image without a C library.
//
//	probe fs DIR          every check below DIR, one line each; exits with 1 at the first that fails
//	probe credentials     real and effective user ids and effective capabilities of this process
//	probe hold FILE       takes an exclusive lock on FILE, says so, and keeps it until its input ends
//	probe locked FILE     exits with 0 when another process holds a lock on FILE
package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "fs":
		return checkAll(args[1])
	case len(args) == 1 && args[0] == "credentials":
		return credentials()
	case len(args) == 2 && args[0] == "hold":
		return hold(args[1])
	case len(args) == 2 && args[0] == "locked":
		return locked(args[1])
	}
	return fmt.Errorf("usage: probe fs DIR | credentials | hold FILE | locked FILE")
}

func credentials() error {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	for _, line := range strings.Split(string(status), "\n") {
		if strings.HasPrefix(line, "CapEff:") {
			fmt.Printf("uid=%d euid=%d capeff=%s\n", os.Getuid(), os.Geteuid(), strings.TrimSpace(line[len("CapEff:"):]))
			return nil
		}
	}
	return fmt.Errorf("/proc/self/status has no CapEff")
}

// lock takes both kinds of lock: flock, which belongs to the open file, and fcntl, which belongs to the process.
func lock(name string) (*os.File, error) {
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, fmt.Errorf("flock: %w", err)
	}
	whole := syscall.Flock_t{Type: syscall.F_WRLCK}
	if err := syscall.FcntlFlock(file.Fd(), syscall.F_SETLK, &whole); err != nil {
		return nil, fmt.Errorf("fcntl lock: %w", err)
	}
	return file, nil
}

func hold(name string) error {
	file, err := lock(name)
	if err != nil {
		return err
	}
	defer file.Close()
	fmt.Println("held")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func locked(name string) error {
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != syscall.EWOULDBLOCK {
		return fmt.Errorf("flock should say EWOULDBLOCK, says %v", err)
	}
	whole := syscall.Flock_t{Type: syscall.F_WRLCK}
	if err := syscall.FcntlFlock(file.Fd(), syscall.F_SETLK, &whole); err != syscall.EAGAIN && err != syscall.EACCES {
		return fmt.Errorf("fcntl lock should say EAGAIN, says %v", err)
	}
	return nil
}
