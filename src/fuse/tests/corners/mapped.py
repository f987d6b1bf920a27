# A file that is closed, and changed through its mapping: its times and content tell, also to who has looked before.
import ctypes, os, sys, time

path = sys.argv[1] + "/f"
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.msync.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

with open(path, "wb") as file: file.write(b"a" * 4096)
for _ in range(3):
    fd = os.open(path, os.O_RDWR)
    at = libc.mmap(None, 4096, 3, 1, fd, 0)  # readable and writable, shared
    os.close(fd)
    os.utime(path, ns=(1, 1))
    for _ in range(3):
        print("before:", os.stat(path).st_mtime_ns)
        time.sleep(0.03)
    ctypes.memset(at, ord("b"), 1)
    libc.msync(at, 4096, 4)  # POSIX promises the time no earlier; ext4 is quicker
    print("changed:", os.stat(path).st_mtime_ns > 1, open(path, "rb").read(2))
    libc.munmap(at, 4096)
    os.utime(path, ns=(2, 2))
    print("after:", os.stat(path).st_mtime_ns)
