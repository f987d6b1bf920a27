package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

func execWritten(dir string) error {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	name := filepath.Join(dir, "copy")
	if err := os.WriteFile(name, self, 0o755); err != nil {
		return err
	}
	child := exec.Command(name, "hold", filepath.Join(dir, "lock"))
	input, err := child.StdinPipe()
	if err != nil {
		return err
	}
	output, err := child.StdoutPipe()
	if err != nil {
		return err
	}
	if err := child.Start(); err != nil {
		return err
	}
	line := make([]byte, 5)
	if _, err := output.Read(line); err != nil {
		return err
	}
	if file, err := os.OpenFile(name, os.O_WRONLY, 0); err == nil {
		file.Close()
		return fmt.Errorf("a running program was opened for writing")
	} else if pathErr, ok := err.(*os.PathError); !ok || pathErr.Err != syscall.ETXTBSY {
		return fmt.Errorf("should be ETXTBSY: %w", err)
	}
	input.Close()
	return child.Wait()
}

func locks(dir string) error {
	name := filepath.Join(dir, "lock")
	file, err := lock(name)
	if err != nil {
		return err
	}
	defer file.Close()
	output, err := exec.Command("/proc/self/exe", "locked", name).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, output)
	}
	return nil
}

func streamSocket(dir string) error {
	address := &syscall.SockaddrUnix{Name: filepath.Join(dir, "s")}
	listener, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(listener)
	if err := syscall.Bind(listener, address); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	if err := syscall.Listen(listener, 1); err != nil {
		return err
	}
	caller, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(caller)
	if err := syscall.Connect(caller, address); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	peer, _, err := syscall.Accept(listener)
	if err != nil {
		return err
	}
	defer syscall.Close(peer)
	if _, err := syscall.Write(caller, []byte("hello")); err != nil {
		return err
	}
	return receives(peer, "hello")
}

func datagramSocket(dir string) error {
	address := &syscall.SockaddrUnix{Name: filepath.Join(dir, "d")}
	receiver, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(receiver)
	if err := syscall.Bind(receiver, address); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	sender, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(sender)
	if err := syscall.Sendto(sender, []byte("message"), 0, address); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return receives(receiver, "message")
}

func fifo(dir string) error {
	name := filepath.Join(dir, "fifo")
	if err := syscall.Mkfifo(name, 0o600); err != nil {
		return err
	}
	both, err := syscall.Open(name, syscall.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(both)
	if _, err := syscall.Write(both, []byte("through")); err != nil {
		return err
	}
	return receives(both, "through")
}

func receives(fd int, want string) error {
	buffer := make([]byte, 64)
	n, err := syscall.Read(fd, buffer)
	if err != nil {
		return err
	}
	return expect("received", string(buffer[:n]), want)
}
