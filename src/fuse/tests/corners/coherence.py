# One file by way of mappings, calls, direct I/O and changes of its length: everybody sees the same.
import mmap, os, signal, sys

path, PAGE = sys.argv[1] + "/f", 4096
fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
os.write(fd, b"a" * 4 * PAGE)
shared = mmap.mmap(fd, 4 * PAGE)
direct = os.open(path, os.O_RDWR | os.O_DIRECT)
block = mmap.mmap(-1, PAGE)

os.pwrite(fd, b"written", 10)
print("a write in the mapping:", shared[10:17])
shared[20:26] = b"mapped"
print("the mapping in a read:", os.pread(fd, 6, 20))
os.preadv(direct, [block], 0)
print("both in a direct read:", block[10:26])
block[0:6] = b"direct"
os.pwritev(direct, [block], 0)
print("a direct write in the mapping and in a read:", shared[0:6], os.pread(fd, 6, 0))

shared[2 * PAGE:2 * PAGE + 4] = b"tail"
os.ftruncate(fd, 2 * PAGE + 2)
os.ftruncate(fd, 4 * PAGE)
print("cut off and made longer:", shared[2 * PAGE:2 * PAGE + 4], os.pread(fd, 4, 2 * PAGE))
private = mmap.mmap(fd, 4 * PAGE, mmap.MAP_PRIVATE)
private[0:7] = b"private"
print("a private mapping stays private:", os.pread(fd, 6, 0), private[0:7])

pid = os.fork()
if pid == 0:
    os.ftruncate(fd, PAGE)
    shared[3 * PAGE]
    os._exit(0)
print("behind the end:", signal.Signals(os.WTERMSIG(os.waitpid(pid, 0)[1])).name)
fresh = os.open(path, os.O_RDONLY)
print(os.fstat(fresh).st_size, os.pread(fresh, 16, 10))
shared.flush(0, PAGE)
os.fsync(fd)
