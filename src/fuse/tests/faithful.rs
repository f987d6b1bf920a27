//! What a program could tell from ext4: the same is done on the mount and on the ext4 below, and must come out
//! the same.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open};
use tempfile::TempDir;

use super::*;

/// Runs `work` in a snapshot with passthrough, in one without, and on the host's own filesystem; what it comes
/// to must be equal.
pub(super) fn same_everywhere<T: PartialEq + std::fmt::Debug>(work: impl Fn(&Path) -> T) -> T {
    let reference = reference();
    let expected = work(reference.path());
    for mounted in [Mounted::new(), Mounted::without_passthrough()] {
        let root = mounted.empty("a");
        fs::set_permissions(&root, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(work(&root), expected);
    }
    expected
}

fn reference() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let kind = rustix::fs::statfs(dir.path()).unwrap().f_type;
    assert_eq!(kind, 0xef53, "the reference is ext4: set TMPDIR");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    dir
}

/// Exit code and output of a Python script.
pub(super) fn python(script: &str, arguments: &[&Path]) -> String {
    let done = Command::new("python3").arg("-c").arg(script).args(arguments).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    format!("{:?} {out}{}", done.status.code(), err.lines().last().unwrap_or_default())
}

fn nameless(dir: &Path, more: OFlags) -> OwnedFd {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC | more;
    open(dir, flags, Mode::from_raw_mode(0o640)).unwrap()
}

fn give_name(file: &OwnedFd, path: &Path) -> rustix::io::Result<()> {
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    linkat(CWD, own, CWD, path, AtFlags::SYMLINK_FOLLOW)
}

#[test]
fn nameless_file_is_given_a_name_unless_it_was_made_without_that_right() {
    let came_to = same_everywhere(|dir| {
        let file = nameless(dir, OFlags::empty());
        rustix::io::write(&file, b"content").unwrap();
        let before = rustix::fs::fstat(&file).unwrap();
        give_name(&file, &dir.join("f")).unwrap();
        let after = rustix::fs::fstat(&file).unwrap();
        let refused = give_name(&nameless(dir, OFlags::EXCL), &dir.join("g")).unwrap_err();
        let text = fs::read_to_string(dir.join("f")).unwrap();
        drop(file);
        let shape = |stat: rustix::fs::Stat| (stat.st_nlink, stat.st_mode, stat.st_size);
        (shape(before), shape(after), text, refused.raw_os_error(), names(dir))
    });
    assert_eq!((came_to.0.0, came_to.1.0), (0, 1));
    assert_eq!(came_to.4, ["f"]);
}

#[test]
fn nameless_file_that_is_dropped_leaves_nothing_and_keeps_no_commit_waiting() {
    let mounted = Mounted::new();
    let root = mounted.empty("a");
    drop(nameless(&root, OFlags::empty()));
    let named = nameless(&root, OFlags::empty());
    give_name(&named, &root.join("f")).unwrap();
    drop(named);
    mounted.rig.commit("b", "a");
    assert_eq!(names(mounted.path("committed/b")), ["f"]);
}

#[test]
fn birth_time_is_that_of_the_backing_filesystem_and_stays() {
    let mounted = Mounted::new();
    let info = mounted.rig.prepare("a", None);
    let file = mounted.path("active/a/f");
    fs::write(&file, "x").unwrap();
    let born = fs::metadata(&file).unwrap().created().expect("the kernel asks for it (Linux 6.6)");
    assert_eq!(born, mounted.rig.backing(&info).join("f").metadata().unwrap().created().unwrap());
    fs::write(&file, "more").unwrap();
    fs::File::open(&file).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().created().unwrap(), born);
    assert!(fs::metadata(mounted.path("active")).unwrap().created().is_err(), "virtual");
}

const CHANGES: &[&str] = &[
    "printf x >> F",
    "printf x > F",
    "truncate -s 1 F",
    "fallocate -l 100000 F",
    "dd if=/dev/zero of=F bs=4096 count=1 conv=notrunc oflag=direct status=none",
    "python3 -c 'import os; os.copy_file_range(os.open(\"source\", 0), os.open(\"F\", 1), 10)'",
    "chown 1000:1000 F",
    "chgrp 1000 F",
    "setfacl -m u:5:r F",
    "chmod g+w F",
];

/// Changes a file of this mode as this user; what its mode is then.
fn mode_after(dir: &Path, change: &str, from: u32, uid: u32, settle: &dyn Fn()) -> u32 {
    let file = dir.join("F");
    drop(fs::remove_file(&file));
    fs::write(dir.join("source"), "to copy from").unwrap();
    fs::write(&file, vec![0; 8192]).unwrap();
    std::os::unix::fs::chown(&file, Some(uid), Some(1000)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(from)).unwrap();
    settle();
    let ids = [format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".to_owned()];
    let mut command = Command::new("setpriv");
    command.args(ids).args(["sh", "-c", change]).current_dir(dir);
    // Some are refused; then nothing may have changed.
    command.stderr(std::process::Stdio::null()).status().unwrap();
    mode(&file)
}

#[test]
fn set_user_id_and_set_group_id_stay_and_go_as_on_ext4() {
    let reference = reference();
    for mounted in [Mounted::new(), Mounted::without_passthrough()] {
        let root = mounted.empty("a");
        fs::set_permissions(&root, fs::Permissions::from_mode(0o777)).unwrap();
        // Who has it open decides how it is written, so the one who made it must have closed it.
        let settle = || {
            wait_until("all files are closed", || {
                let opened = mounted.count(Op::Open) + mounted.count(Op::Create);
                mounted.count(Op::Release) == opened
            });
        };
        let mut kept = 0;
        for change in CHANGES {
            for (from, uid) in [(0o6775, 0), (0o6775, 1000), (0o2764, 0), (0o2764, 1000)] {
                let expected = mode_after(reference.path(), change, from, uid, &|| ());
                let got = mode_after(&root, change, from, uid, &settle);
                let what = format!("{change}, {from:o}, uid {uid}: {got:o}, on ext4 {expected:o}");
                assert_eq!(got, expected, "{what}");
                kept += usize::from(got & 0o4000 != 0);
            }
        }
        assert!(kept > 4, "root's changes keep the bits");
    }
}

#[test]
fn mapped_write_by_way_of_an_appending_handle_stays_in_its_place() {
    let script = "import mmap,os,sys; fd=os.open(sys.argv[1],os.O_RDWR|os.O_APPEND); \
                  m=mmap.mmap(fd,4096); m[0:1]=b'X'; m.flush(); os.write(fd,b'end'); m.close()";
    let came_to = same_everywhere(|dir| {
        fs::write(dir.join("f"), vec![b'.'; 4096]).unwrap();
        let said = python(script, &[&dir.join("f")]);
        let content = fs::read(dir.join("f")).unwrap();
        (said, content.len(), content[0], content[4096..].to_vec())
    });
    assert_eq!((came_to.1, came_to.2), (4099, b'X'));
}

#[test]
fn file_that_can_only_be_appended_to_is_that() {
    let came_to = same_everywhere(|dir| {
        let file = dir.join("f");
        fs::write(&file, "a").unwrap();
        let chattr = |flag| Command::new("chattr").arg(flag).arg(&file).status().unwrap().code();
        let set = chattr("+a");
        let over = fs::File::options().write(true).open(&file).map(drop).map_err(|e| e.kind());
        let appended = fs::File::options()
            .append(true)
            .open(&file)
            .and_then(|mut file| std::io::Write::write_all(&mut file, b"b"))
            .map_err(|e| e.kind());
        let text = fs::read_to_string(&file).unwrap();
        (set, over, appended, text, chattr("-a"))
    });
    assert_eq!(came_to.3, "ab");
}

#[test]
fn leases_are_granted_and_refused_as_on_ext4() {
    let script = "
import fcntl, os, sys
def lease(flags, kind):
    fd = os.open(sys.argv[1], flags)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, kind)
        return fcntl.fcntl(fd, fcntl.F_GETLEASE)
    except OSError as error:
        return error.errno
    finally:
        os.close(fd)
print(lease(os.O_RDONLY, fcntl.F_RDLCK), lease(os.O_RDWR, fcntl.F_WRLCK), lease(os.O_RDWR, fcntl.F_RDLCK))
";
    same_everywhere(|dir| {
        fs::write(dir.join("f"), "x").unwrap();
        python(script, &[&dir.join("f")])
    });
}

/// A container in a user namespace sees an image's files as its own by way of an idmapped mount.
#[test]
fn idmapped_mount_shows_and_makes_files_under_mapped_ids() {
    let came_to = same_everywhere(|dir| {
        fs::write(dir.join("shown"), "x").unwrap();
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
        let said = python(IDMAPPED, &[dir]);
        let made = dir.join("made").metadata().map(|made| (made.uid(), made.gid()));
        (said, made.map_err(|error| error.kind()))
    });
    assert_eq!(came_to, ("Some(0) 100000 100000 True\n".to_owned(), Ok((0, 0))));
}

const IDMAPPED: &str = r#"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    done = libc.syscall(number, *arguments)
    if done < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(number))
    return done
ready, go = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    if libc.unshare(0x10000000) != 0: os._exit(1)
    os.write(ready[1], b"x"); os.read(go[0], 1); os._exit(0)
os.read(ready[0], 1)
for ids in ("uid_map", "gid_map"):
    with open(f"/proc/{child}/{ids}", "w") as file: file.write("0 100000 65536")
namespace = os.open(f"/proc/{child}/ns/user", os.O_RDONLY)
tree = call(428, -100, sys.argv[1].encode(), 1 | os.O_CLOEXEC)
attributes = struct.pack("QQQQ", 0x100000, 0, 0, namespace)
call(442, tree, b"", 0x1000, attributes, len(attributes))
os.write(go[1], b"x"); os.waitpid(child, 0)
at = f"/proc/self/fd/{tree}"
shown = os.stat(at + "/shown")
os.fchdir(tree)
os.setegid(100000); os.seteuid(100000)
with open("made", "w") as file: file.write("x")
with open("shown", "a") as file: file.write("x")
made = os.stat("made")
print(shown.st_uid, made.st_gid, made.st_uid == shown.st_uid)
"#;
