package main

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"unsafe"
)

func renames(dir string) error {
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	for name, text := range map[string]string{a: "A", b: "B"} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			return err
		}
	}
	rename2 := func(flags uintptr) error {
		from, _ := syscall.BytePtrFromString(a)
		to, _ := syscall.BytePtrFromString(b)
		const atFdCwd, sysRenameat2 = ^uintptr(99), 316
		_, _, errno := syscall.Syscall6(sysRenameat2, atFdCwd, uintptr(unsafe.Pointer(from)), atFdCwd, uintptr(unsafe.Pointer(to)), flags, 0)
		if errno != 0 {
			return errno
		}
		return nil
	}
	const noReplace, exchange = 1, 2
	if err := rename2(noReplace); err != syscall.EEXIST {
		return fmt.Errorf("RENAME_NOREPLACE should say EEXIST, says %v", err)
	}
	if err := rename2(exchange); err != nil {
		return fmt.Errorf("RENAME_EXCHANGE: %w", err)
	}
	if err := holds(a, "B"); err != nil {
		return err
	}
	if err := os.Rename(a, b); err != nil {
		return err
	}
	if err := holds(b, "B"); err != nil {
		return err
	}
	// Directories of a lower layer can be renamed too: overlayfs without redirect_dir says EXDEV.
	sub := filepath.Join(dir, "sub")
	if err := os.MkdirAll(filepath.Join(sub, "below"), 0o755); err != nil {
		return err
	}
	return os.Rename(sub, filepath.Join(dir, "moved"))
}

func hardLinks(dir string) error {
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	if err := os.WriteFile(a, nil, 0o644); err != nil {
		return err
	}
	if err := os.Link(a, b); err != nil {
		return err
	}
	if err := os.WriteFile(b, []byte("both"), 0o644); err != nil {
		return err
	}
	var one, two syscall.Stat_t
	if err := syscall.Stat(a, &one); err != nil {
		return err
	}
	if err := syscall.Stat(b, &two); err != nil {
		return err
	}
	if err := expect("inode and links", []uint64{one.Ino, one.Nlink}, []uint64{two.Ino, 2}); err != nil {
		return err
	}
	return holds(a, "both")
}

func unlinked(dir string) error {
	file, err := os.Create(filepath.Join(dir, "f"))
	if err != nil {
		return err
	}
	defer file.Close()
	if err := os.Remove(file.Name()); err != nil {
		return err
	}
	if _, err := file.WriteString("still here"); err != nil {
		return err
	}
	read := make([]byte, 10)
	if _, err := file.ReadAt(read, 0); err != nil {
		return err
	}
	return expect("the file", string(read), "still here")
}

// unnamed asks for O_TMPFILE, which FUSE has since Linux 6.0; where a filesystem refuses it, it must say EOPNOTSUPP,
// the errno that programs fall back on.
func unnamed(dir string) error {
	const tmpfile = 0o20200000
	fd, err := syscall.Open(dir, tmpfile|syscall.O_RDWR, 0o600)
	if err == syscall.EOPNOTSUPP {
		return nil
	}
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	from, _ := syscall.BytePtrFromString(fmt.Sprintf("/proc/self/fd/%d", fd))
	to, _ := syscall.BytePtrFromString(filepath.Join(dir, "named"))
	const atFdCwd, symlinkFollow = ^uintptr(99), 0x400
	if _, _, errno := syscall.Syscall6(syscall.SYS_LINKAT, atFdCwd, uintptr(unsafe.Pointer(from)), atFdCwd, uintptr(unsafe.Pointer(to)), symlinkFollow, 0); errno != 0 {
		return fmt.Errorf("link: %w", errno)
	}
	return nil
}
