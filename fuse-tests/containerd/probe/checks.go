package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"unsafe"
)

// check is one thing that programs rely on. It works in an empty directory of its own.
type check struct {
	name string
	run  func(dir string) error
}

var checks = []check{
	{"a shared mapping and the file show the same bytes", mapping},
	{"a private mapping stays private", privateMapping},
	{"a program just written can be executed, and a running one can't be written", execWritten},
	{"locks keep other processes out", locks},
	{"a unix stream socket carries bytes", streamSocket},
	{"a unix datagram socket carries a message", datagramSocket},
	{"a fifo carries bytes", fifo},
	{"rename replaces, exchanges and refuses", renames},
	{"hard links share one inode", hardLinks},
	{"an unlinked file lives until it is closed", unlinked},
	{"an unnamed file can be linked in", unnamed},
	{"holes stay holes", holes},
	{"appends of many writers don't overlap", appends},
	{"extended attributes come back", attributes},
	{"a write clears the set-user-id bit", clearsSuid},
	{"times are kept to the nanosecond", times},
	{"fsync and syncfs succeed", syncs},
}

func checkAll(dir string) error {
	for i, c := range checks {
		own := filepath.Join(dir, fmt.Sprintf("check-%02d", i))
		if err := os.Mkdir(own, 0o755); err != nil {
			return err
		}
		if err := c.run(own); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		fmt.Println("ok:", c.name)
	}
	return nil
}

// expect compares what was read with what should have been.
func expect(what string, got, want interface{}) error {
	if fmt.Sprint(got) != fmt.Sprint(want) {
		return fmt.Errorf("%s: %v, should be %v", what, got, want)
	}
	return nil
}

func mapping(dir string) error {
	file, err := os.Create(filepath.Join(dir, "f"))
	if err != nil {
		return err
	}
	defer file.Close()
	const size = 1 << 20
	if err := file.Truncate(size); err != nil {
		return err
	}
	shared, err := syscall.Mmap(int(file.Fd()), 0, size, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return err
	}
	defer syscall.Munmap(shared)
	copy(shared[4090:], "written through memory")
	if _, err := file.WriteAt([]byte("written through the file"), size-100); err != nil {
		return err
	}
	read := make([]byte, 22)
	if _, err := file.ReadAt(read, 4090); err != nil {
		return err
	}
	if err := expect("the file", string(read), "written through memory"); err != nil {
		return err
	}
	if err := expect("the mapping", string(shared[size-100:size-76]), "written through the file"); err != nil {
		return err
	}
	if _, _, errno := syscall.Syscall(syscall.SYS_MSYNC, uintptr(unsafe.Pointer(&shared[0])), size, syscall.MS_SYNC); errno != 0 {
		return fmt.Errorf("msync: %w", errno)
	}
	return nil
}

func privateMapping(dir string) error {
	name := filepath.Join(dir, "f")
	if err := os.WriteFile(name, []byte("on disk"), 0o644); err != nil {
		return err
	}
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	private, err := syscall.Mmap(int(file.Fd()), 0, 7, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE)
	if err != nil {
		return err
	}
	defer syscall.Munmap(private)
	copy(private, "in core")
	content, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	return expect("the file", string(content), "on disk")
}

func holds(name, want string) error {
	content, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	return expect(filepath.Base(name), string(content), want)
}

func holes(dir string) error {
	file, err := os.Create(filepath.Join(dir, "sparse"))
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.WriteAt([]byte("end"), 64<<20); err != nil {
		return err
	}
	const seekData, seekHole = 3, 4
	data, err := file.Seek(0, seekData)
	if err != nil {
		return fmt.Errorf("SEEK_DATA: %w", err)
	}
	hole, err := file.Seek(0, seekHole)
	if err != nil {
		return fmt.Errorf("SEEK_HOLE: %w", err)
	}
	if data < 60<<20 || hole != 0 {
		return fmt.Errorf("first data at %d, first hole at %d", data, hole)
	}
	var stat syscall.Stat_t
	if err := syscall.Fstat(int(file.Fd()), &stat); err != nil {
		return err
	}
	if stat.Blocks*512 > 1<<20 {
		return fmt.Errorf("a file of one block takes %d bytes", stat.Blocks*512)
	}
	const keepSize, punchHole = 1, 2
	if err := syscall.Fallocate(int(file.Fd()), keepSize|punchHole, 64<<20, 4096); err != nil {
		return fmt.Errorf("punch a hole: %w", err)
	}
	read := make([]byte, 3)
	if _, err := file.ReadAt(read, 64<<20); err != nil {
		return err
	}
	return expect("punched bytes", read, []byte{0, 0, 0})
}

func appends(dir string) error {
	name := filepath.Join(dir, "log")
	const writers, lines = 8, 200
	failed := make([]error, writers)
	var group sync.WaitGroup
	for w := 0; w < writers; w++ {
		group.Add(1)
		go func(w int) {
			defer group.Done()
			file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
			for i := 0; err == nil && i < lines; i++ {
				_, err = fmt.Fprintf(file, "%d %07d\n", w, i)
			}
			failed[w] = err
		}(w)
	}
	group.Wait()
	for _, err := range failed {
		if err != nil {
			return err
		}
	}
	content, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	return expect("size and lines", []int{len(content), bytes.Count(content, []byte("\n"))}, []int{writers * lines * 10, writers * lines})
}

func attributes(dir string) error {
	if err := syscall.Setxattr(dir, "user.name", []byte("value"), 0); err != nil {
		return err
	}
	value := make([]byte, 64)
	n, err := syscall.Getxattr(dir, "user.name", value)
	if err != nil {
		return err
	}
	return expect("user.name", string(value[:n]), "value")
}

func clearsSuid(dir string) error {
	name := filepath.Join(dir, "suid")
	if err := os.WriteFile(name, nil, 0o755); err != nil {
		return err
	}
	if err := os.Chown(name, 1000, 1000); err != nil {
		return err
	}
	if err := os.Chmod(name, 0o755|os.ModeSetuid); err != nil {
		return err
	}
	// Root keeps the bit when it writes; somebody else must lose it.
	write := exec.Command("/bin/sh", "-c", "echo x >> "+name)
	write.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
	if output, err := write.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, output)
	}
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	return expect("mode", info.Mode(), os.FileMode(0o755))
}

func times(dir string) error {
	stamp := []syscall.Timespec{{Sec: 1234567890, Nsec: 123456789}, {Sec: 1600000000, Nsec: 987654321}}
	if err := syscall.UtimesNano(dir, stamp); err != nil {
		return err
	}
	var stat syscall.Stat_t
	if err := syscall.Stat(dir, &stat); err != nil {
		return err
	}
	return expect("times", []syscall.Timespec{stat.Atim, stat.Mtim}, stamp)
}

func syncs(dir string) error {
	file, err := os.Create(filepath.Join(dir, "f"))
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.WriteString("durable"); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return fmt.Errorf("fsync: %w", err)
	}
	const sysSyncfs = 306
	if _, _, errno := syscall.Syscall(sysSyncfs, file.Fd(), 0, 0); errno != 0 {
		return fmt.Errorf("syncfs: %w", errno)
	}
	return nil
}
