# Whole files by flock, ranges by fcntl, and locks that belong to an open file, between processes.
import errno, fcntl, os, struct, sys

path = sys.argv[1] + "/f"
fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
os.write(fd, b"x" * 100)

F_OFD_SETLK = 37


def elsewhere(attempt):
    """What another process comes to: 0, or an errno."""
    pid = os.fork()
    if pid == 0:
        try:
            attempt(os.open(path, os.O_RDWR))
            os._exit(0)
        except OSError as error:
            os._exit(error.errno)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def own(fd, kind, start, length):
    fcntl.fcntl(fd, F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0))


whole = lambda kind: lambda other: fcntl.flock(other, kind | fcntl.LOCK_NB)
part = lambda kind, length, start: lambda other: fcntl.lockf(other, kind | fcntl.LOCK_NB, length, start)

fcntl.flock(fd, fcntl.LOCK_SH)
print("flock shared:", elsewhere(whole(fcntl.LOCK_SH)), elsewhere(whole(fcntl.LOCK_EX)))
fcntl.flock(fd, fcntl.LOCK_EX)
print("flock exclusive:", elsewhere(whole(fcntl.LOCK_SH)))
fcntl.flock(fd, fcntl.LOCK_UN)
fcntl.lockf(fd, fcntl.LOCK_EX, 10, 20)
print("range:", elsewhere(part(fcntl.LOCK_EX, 10, 0)), elsewhere(part(fcntl.LOCK_EX, 10, 25)))
said = fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 100, 0))
print("own ranges are free:", struct.unpack("hhqqi4x", said)[0] == fcntl.F_UNLCK)
os.close(os.open(path, os.O_RDONLY))
print("gone with any close:", elsewhere(part(fcntl.LOCK_EX, 10, 25)))
own(fd, fcntl.F_WRLCK, 0, 5)
other = os.open(path, os.O_RDWR)
try:
    own(other, fcntl.F_WRLCK, 0, 5)
    print("of the open file: taken twice")
except OSError as error:
    print("of the open file:", errno.errorcode[error.errno])
os.close(fd)
own(other, fcntl.F_WRLCK, 0, 5)
print("free with its close")
