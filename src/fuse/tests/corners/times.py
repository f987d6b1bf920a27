# Times to the nanosecond, far away, and what an operation leaves alone.
import os, sys, time

path = sys.argv[1] + "/f"
open(path, "w").close()
os.symlink("nowhere", path + "-link")
SECOND = 10**9
for name, moment in [
    ("nanoseconds", 1_500_000_000 * SECOND + 123_456_789),
    ("the first", 0),
    ("before it", -5 * SECOND + 7),
    ("1902", -2_147_483_647 * SECOND),
    ("2040", 2_208_988_800 * SECOND + 1),
    ("2400", 13_569_465_600 * SECOND + 999_999_999),
    ("too far", 2**34 * SECOND + 2**33 * SECOND),
    ("long ago", -(2**32) * SECOND),
]:
    for file in (path, path + "-link"):
        os.utime(file, ns=(moment, moment + 1), follow_symlinks=False)
        stat = os.lstat(file)
        print(name, stat.st_atime_ns, stat.st_mtime_ns)
os.utime(path, ns=(1, 2))
before = os.stat(path)
os.chmod(path, 0o640)
after = os.stat(path)
print("chmod:", after.st_atime_ns, after.st_mtime_ns, after.st_ctime_ns > before.st_ctime_ns)
with open(path, "a") as file:
    file.write("x")
print("write:", os.stat(path).st_mtime_ns > 2)
os.utime(path, ns=(1, 2))
os.truncate(path, 1)
print("truncate to the same length:", os.stat(path).st_mtime_ns > 2)
os.utime(path, ns=(1, 2))
os.rename(path, path + "2")
print("rename:", os.stat(path + "2").st_mtime_ns)
os.link(path + "2", path)
print("link:", os.stat(path).st_mtime_ns)
