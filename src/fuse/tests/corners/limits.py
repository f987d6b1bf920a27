# RLIMIT_FSIZE: as much as fits is written, then SIGXFSZ; longer by truncation or allocation isn't allowed either.
import errno, mmap, os, resource, signal, sys

path = sys.argv[1] + "/f"
fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
got = []
signal.signal(signal.SIGXFSZ, lambda *_: got.append("SIGXFSZ"))
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))


def attempt(name, work):
    got.clear()
    try:
        print(name, work(), got, os.fstat(fd).st_size)
    except OSError as error:
        print(name, errno.errorcode[error.errno], got, os.fstat(fd).st_size)


attempt("write across", lambda: os.write(fd, b"x" * 15_000))
attempt("write behind", lambda: os.pwrite(fd, b"x", 10_000))
attempt("write before", lambda: os.pwrite(fd, b"x", 9_999))
attempt("truncate", lambda: os.ftruncate(fd, 10_001))
attempt("allocate", lambda: os.posix_fallocate(fd, 0, 20_000))
other = os.open(path + "2", os.O_RDWR | os.O_CREAT, 0o600)
os.write(other, b"y" * 9_000)
attempt("copy", lambda: os.copy_file_range(other, fd, 9_000, 0, 5_000))
