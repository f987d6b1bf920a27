# What inotify tells of a directory, in order.
import ctypes, os, struct, sys

libc = ctypes.CDLL(None, use_errno=True)
root = sys.argv[1]
os.mkdir(root + "/d")
fd = libc.inotify_init1(os.O_NONBLOCK)
ALL = 0xFFF
assert libc.inotify_add_watch(fd, (root + "/d").encode(), ALL & ~0x1 & ~0x10 & ~0x20) >= 0
at = lambda name: root + "/d/" + name
with open(at("f"), "w") as file:
    file.write("content")
os.chmod(at("f"), 0o600)
os.truncate(at("f"), 3)
os.rename(at("f"), at("g"))
os.link(at("g"), at("h"))
os.mkdir(at("sub"))
os.rmdir(at("sub"))
os.rename(at("g"), root + "/outside")
os.rename(root + "/outside", at("back"))
os.unlink(at("back"))
os.unlink(at("h"))
os.rmdir(root + "/d")
data, names = os.read(fd, 65536), {0x2: "modify", 0x4: "attrib", 0x8: "close_write", 0x40: "moved_from",
    0x80: "moved_to", 0x100: "create", 0x200: "delete", 0x400: "delete_self", 0x8000: "ignored"}
while data:
    _, mask, _, length = struct.unpack("iIII", data[:16])
    name = data[16:16 + length].rstrip(b"\0").decode()
    is_dir = " directory" if mask & 0x40000000 else ""
    print(names.get(mask & 0xFFFF, hex(mask)), name + is_dir)
    data = data[16 + length:]
