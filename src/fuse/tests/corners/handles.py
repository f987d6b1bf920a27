# File handles: names that outlive a rename, of directories also every cache, and that are told from those of a file that
# has gone. (Of a plain file that isn't cached nobody could tell here whether it is inside the snapshot's directory or
# elsewhere on the filesystem below, so on plain directories such a handle is stale. A thin volume has a filesystem of
# its own.)
import ctypes, errno, os, sys, time

libc = ctypes.CDLL(None, use_errno=True)


class Handle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint), ("kind", ctypes.c_int), ("handle", ctypes.c_ubyte * 128)]


def handle_of(path):
    handle, mount = Handle(bytes=128), ctypes.c_int()
    if libc.name_to_handle_at(-100, path.encode(), ctypes.byref(handle), ctypes.byref(mount), 0) < 0:
        raise OSError(ctypes.get_errno(), "name_to_handle_at")
    return handle


def opened(handle, flags):
    fd = libc.open_by_handle_at(root, ctypes.byref(handle), flags)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "open_by_handle_at")
    return fd


at = sys.argv[1]
root = os.open(at, os.O_RDONLY)
os.makedirs(at + "/d/e")
with open(at + "/d/e/f", "w") as file:
    file.write("content")
handles = {name: handle_of(at + name) for name in ("/d", "/d/e", "/d/e/f")}
os.rename(at + "/d/e", at + "/moved")
file = opened(handles["/d/e/f"], os.O_RDONLY)
with open("/proc/sys/vm/drop_caches", "w") as caches:
    caches.write("2")
directory = opened(handles["/d/e"], os.O_RDONLY | os.O_DIRECTORY)
print(os.read(file, 100), sorted(os.listdir(directory)))
print(os.path.basename(os.readlink("/proc/self/fd/%d" % directory)))
os.close(file)
os.unlink(at + "/moved/f")
# The kernel keeps a closed file until whoever serves it has been told, which nobody waits for.
deadline = time.monotonic() + 10
while True:
    try:
        os.close(opened(handles["/d/e/f"], os.O_RDONLY))
        if time.monotonic() > deadline:
            print("it can be opened still")
            break
        time.sleep(0.01)
    except OSError as error:
        print(errno.errorcode[error.errno])
        break
