# Flags and project ids by ioctl, the sticky bit, set-group-id directories, extended attributes and their limits.
import array, errno, fcntl, os, struct, sys

root = sys.argv[1]
FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x80086601, 0x40086602
FS_IOC_FSGETXATTR, FS_IOC_FSSETXATTR = 0x801C581F, 0x401C5820


def attempt(work):
    try:
        return work()
    except OSError as error:
        return errno.errorcode[error.errno]


def as_user(uid, gid, work):
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
        said = attempt(work)
        os._exit(getattr(errno, said) if isinstance(said, str) else 0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return errno.errorcode.get(code, "done")


def flags(fd, value=None):
    if value is not None:
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, struct.pack("l", value))
    said = array.array("l", [0])
    fcntl.ioctl(fd, FS_IOC_GETFLAGS, said)
    return said[0] & 0xFF


path = root + "/f"
fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
print("flags:", attempt(lambda: flags(fd, 0x80 | 0x40)))
print("immutable:", attempt(lambda: flags(fd, 0x10)), attempt(lambda: open(path, "w")), attempt(lambda: os.unlink(path)))
flags(fd, 0)
project = attempt(lambda: fcntl.ioctl(fd, FS_IOC_FSGETXATTR, bytes(28)))
print("project:", project if isinstance(project, str) else struct.unpack("IIIII8x", project))
asked = struct.pack("IIIII8x", 0, 0, 0, 4711, 0)
print("another:", attempt(lambda: fcntl.ioctl(fd, FS_IOC_FSSETXATTR, asked) and "set"))

os.mkdir(root + "/sticky")
os.chmod(root + "/sticky", 0o1777)
for name in ("root", "nobody"):
    open(root + "/sticky/" + name, "w").close()
os.chown(root + "/sticky/nobody", 65534, 65534)
remove = lambda name: lambda: os.unlink(root + "/sticky/" + name)
print("sticky:", as_user(65534, 65534, remove("root")), as_user(65534, 65534, remove("nobody")))

os.mkdir(root + "/group")
os.chown(root + "/group", 0, 100)
os.chmod(root + "/group", 0o2777)
os.mkdir(root + "/group/d")
open(root + "/group/f", "w").close()
for name in ("d", "f"):
    stat = os.stat(root + "/group/" + name)
    print("inherited:", oct(stat.st_mode), stat.st_gid)
os.setxattr(root + "/f", "user.small", b"value")
print("attribute:", os.getxattr(root + "/f", "user.small"), os.listxattr(root + "/f"))
print("created twice:", attempt(lambda: os.setxattr(path, "user.small", b"", os.XATTR_CREATE)))
print("replaced what isn't there:", attempt(lambda: os.setxattr(path, "user.no", b"", os.XATTR_REPLACE)))
print("too large:", attempt(lambda: os.setxattr(path, "user.large", bytes(65537))))
print("too long:", attempt(lambda: os.setxattr(path, "user." + "n" * 260, b"")))
os.symlink("f", root + "/link")
print("on a symlink:", attempt(lambda: os.setxattr(root + "/link", "user.x", b"", follow_symlinks=False)))
print("unknown namespace:", attempt(lambda: os.setxattr(path, "what.x", b"")))
