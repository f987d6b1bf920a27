//! What a root filesystem needs of files, directories and links.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, PermissionsExt, symlink};

use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, IFlags, Mode, RenameFlags, Timespec, Timestamps,
};

use super::*;

#[test]
fn files_come_back_as_they_were_written() {
    for mounted in [Mounted::new(), Mounted::without_passthrough()] {
        let root = mounted.empty("a");
        let data: Vec<u8> = (0..3_000_000_u32).map(|n| (n * 7 % 251) as u8).collect();
        fs::write(root.join("file"), &data).unwrap();
        assert_eq!(fs::read(root.join("file")).unwrap(), data);
        let mut file = fs::File::options().read(true).write(true).open(root.join("file")).unwrap();
        file.seek(SeekFrom::Start(1_000_000)).unwrap();
        file.write_all(b"changed").unwrap();
        let mut back = [0; 7];
        file.read_exact_at(&mut back, 1_000_000).unwrap();
        assert_eq!(&back, b"changed");
        drop(file);
        fs::File::options()
            .append(true)
            .open(root.join("file"))
            .unwrap()
            .write_all(b"end")
            .unwrap();
        assert_eq!(fs::metadata(root.join("file")).unwrap().len(), 3_000_003);
        fs::File::options().write(true).truncate(true).open(root.join("file")).unwrap();
        assert_eq!(fs::metadata(root.join("file")).unwrap().len(), 0);
    }
}

#[test]
fn content_goes_past_the_daemon_where_the_kernel_can() {
    let mounted = Mounted::new();
    let root = mounted.empty("a");
    fs::write(root.join("file"), vec![1; 100_000]).unwrap();
    assert_eq!(fs::read(root.join("file")).unwrap().len(), 100_000);
    assert_eq!((mounted.count(Op::Read), mounted.count(Op::Write)), (0, 0));
    assert_eq!(mounted.session.stats().passthrough(), 2);
}

#[test]
fn several_opens_of_one_file_share_a_way() {
    for mounted in [Mounted::new(), Mounted::without_passthrough()] {
        let root = mounted.empty("a");
        let first = fs::File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(root.join("f"))
            .unwrap();
        let second = fs::File::options().read(true).write(true).open(root.join("f")).unwrap();
        first.write_all_at(b"one", 0).unwrap();
        let third = fs::File::open(root.join("f")).unwrap();
        let mut back = [0; 3];
        for file in [&second, &third] {
            file.read_exact_at(&mut back, 0).unwrap();
            assert_eq!(&back, b"one");
        }
    }
}

#[test]
fn direct_io_reads_what_buffered_io_wrote() {
    for mounted in [Mounted::new(), Mounted::without_passthrough()] {
        let root = mounted.empty("a");
        fs::write(root.join("f"), vec![7; 8192]).unwrap();
        use std::os::unix::fs::OpenOptionsExt;
        let direct = fs::File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_DIRECT)
            .open(root.join("f"))
            .unwrap();
        let mut buffer = vec![0; 4096 * 3];
        let start = buffer.as_ptr().align_offset(4096);
        let aligned = &mut buffer[start..start + 4096];
        direct.read_exact_at(aligned, 4096).unwrap();
        assert!(aligned.iter().all(|byte| *byte == 7));
        aligned.fill(9);
        direct.write_all_at(aligned, 0).unwrap();
        drop(direct);
        assert_eq!(fs::read(root.join("f")).unwrap()[..4097], [vec![9; 4096], vec![7]].concat());
    }
}

#[test]
fn root_lists_the_kinds_and_kinds_list_snapshots() {
    let mounted = Mounted::new();
    mounted.empty("one");
    mounted.empty("two/slash");
    assert_eq!(names(mounted.path("")), [".ns", "active", "committed", "images", "view"]);
    assert_eq!(names(mounted.path("active")), ["one", "two%2Fslash"]);
    assert_eq!(names(mounted.path("view")), Vec::<String>::new());
}

#[test]
fn large_directory_lists_each_name_once() {
    let mounted = Mounted::new();
    let root = mounted.empty("a");
    let expected: Vec<_> = (0..3000).map(|n| format!("a-rather-long-file-name-{n:06}")).collect();
    for name in &expected {
        fs::write(root.join(name), "").unwrap();
    }
    assert_eq!(names(&root), expected);
}

#[test]
fn hard_links_share_one_inode_number_and_its_data() {
    let mounted = Mounted::new();
    let root = mounted.empty("a");
    fs::create_dir(root.join("d")).unwrap();
    fs::write(root.join("f"), "x").unwrap();
    fs::hard_link(root.join("f"), root.join("d/g")).unwrap();
    let (f, g) = (fs::metadata(root.join("f")).unwrap(), fs::metadata(root.join("d/g")).unwrap());
    assert_eq!((f.ino(), f.nlink()), (g.ino(), 2));
    fs::write(root.join("d/g"), "changed").unwrap();
    assert_eq!(fs::read(root.join("f")).unwrap(), b"changed");
    fs::remove_file(root.join("f")).unwrap();
    assert_eq!(fs::metadata(root.join("d/g")).unwrap().nlink(), 1);
}

#[test]
fn inode_numbers_differ_between_snapshots() {
    let mounted = Mounted::new();
    let (a, b) = (mounted.empty("a"), mounted.empty("b"));
    for root in [&a, &b] {
        fs::write(root.join("f"), "").unwrap();
    }
    assert_ne!(fs::metadata(a.join("f")).unwrap().ino(), fs::metadata(b.join("f")).unwrap().ino());
    assert_ne!(fs::metadata(&a).unwrap().ino(), fs::metadata(&b).unwrap().ino());
    assert_eq!(fs::metadata(a).unwrap().dev(), fs::metadata(b).unwrap().dev());
}

#[test]
fn links_and_renames_between_snapshots_are_refused() {
    let mounted = Mounted::new();
    let (a, b) = (mounted.empty("a"), mounted.empty("b"));
    fs::write(a.join("f"), "").unwrap();
    assert_eq!(errno(fs::hard_link(a.join("f"), b.join("f"))), libc::EXDEV);
    assert_eq!(errno(fs::rename(a.join("f"), b.join("f"))), libc::EXDEV);
    assert_eq!(errno(fs::rename(a.join("f"), mounted.path("active/f"))), libc::EXDEV);
}

#[test]
fn symlinks_and_special_files_are_what_they_were_made() {
    let mounted = Mounted::new();
    let root = mounted.empty("a");
    symlink("../target", root.join("link")).unwrap();
    assert_eq!(fs::read_link(root.join("link")).unwrap(), Path::new("../target"));
    let long = "x".repeat(4000);
    symlink(&long, root.join("long")).unwrap();
    assert_eq!(fs::read_link(root.join("long")).unwrap(), Path::new(&long));
    let make = |name: &str, kind, device| {
        rustix::fs::mknodat(CWD, root.join(name), kind, Mode::from(0o640), device).unwrap()
    };
    make("fifo", FileType::Fifo, 0);
    make("socket", FileType::Socket, 0);
    make("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    make("disk", FileType::BlockDevice, rustix::fs::makedev(253, 300));
    make("file", FileType::RegularFile, 0);
    let kind = |name: &str| fs::symlink_metadata(root.join(name)).unwrap().file_type();
    assert!(kind("fifo").is_fifo() && kind("socket").is_socket() && kind("file").is_file());
    assert!(kind("null").is_char_device() && kind("disk").is_block_device());
    assert_eq!(fs::metadata(root.join("disk")).unwrap().rdev(), rustix::fs::makedev(253, 300));
    assert_eq!(mode(root.join("disk")), 0o640);
    fs::write(root.join("null"), "gone").unwrap();
    assert_eq!(fs::read(root.join("null")).unwrap(), b"");
}

#[test]
fn rename_flags_work() {
    let mounted = Mounted::new();
    let root = mounted.empty("a");
    fs::write(root.join("f"), "f").unwrap();
    fs::write(root.join("g"), "g").unwrap();
    let rename = |flags| rustix::fs::renameat_with(CWD, root.join("f"), CWD, root.join("g"), flags);
    assert_eq!(rename(RenameFlags::NOREPLACE).unwrap_err(), rustix::io::Errno::EXIST);
    rename(RenameFlags::EXCHANGE).unwrap();
    assert_eq!(fs::read(root.join("f")).unwrap(), b"g");
    rename(RenameFlags::WHITEOUT).unwrap();
    assert_eq!(fs::read(root.join("g")).unwrap(), b"g");
    let whiteout = fs::symlink_metadata(root.join("f")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    fs::rename(root.join("g"), root.join("f")).unwrap();
    assert_eq!(fs::read(root.join("f")).unwrap(), b"g");
    assert_eq!(names(&root), ["f"]);
}

#[test]
fn attributes_change_one_by_one_and_together() {
    let mounted = Mounted::new();
    let root = mounted.empty("a");
    let file = root.join("f");
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o6751)).unwrap();
    assert_eq!(mode(&file), 0o6751);
    std::os::unix::fs::chown(&file, Some(12), None).unwrap();
    std::os::unix::fs::chown(&file, None, Some(34)).unwrap();
    let meta = fs::metadata(&file).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (12, 34, 0o751));
    let times = Timestamps {
        last_access: Timespec { tv_sec: -5, tv_nsec: 123_456_789 },
        last_modification: Timespec { tv_sec: 1_700_000_000, tv_nsec: 987_654_321 },
    };
    rustix::fs::utimensat(CWD, &file, &times, AtFlags::empty()).unwrap();
    let meta = fs::metadata(&file).unwrap();
    assert_eq!(
        (meta.atime(), meta.atime_nsec(), meta.mtime(), meta.mtime_nsec()),
        (-5, 123_456_789, 1_700_000_000, 987_654_321)
    );
    let keep_access = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        ..times
    };
    rustix::fs::utimensat(CWD, &file, &keep_access, AtFlags::empty()).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().atime(), -5);
    symlink("f", root.join("link")).unwrap();
    rustix::fs::utimensat(CWD, root.join("link"), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    std::os::unix::fs::lchown(root.join("link"), Some(7), Some(8)).unwrap();
    let meta = fs::symlink_metadata(root.join("link")).unwrap();
    assert_eq!((meta.mtime(), meta.uid(), meta.gid()), (1_700_000_000, 7, 8));
}

#[test]
fn length_changes_by_path_and_by_handle() {
    for mounted in [Mounted::new(), Mounted::without_passthrough()] {
        let root = mounted.empty("a");
        let path = root.join("f");
        fs::write(&path, vec![1; 10_000]).unwrap();
        let file = fs::File::options().read(true).write(true).open(&path).unwrap();
        file.set_len(100).unwrap();
        assert_eq!(fs::read(&path).unwrap(), vec![1; 100]);
        file.set_len(200).unwrap();
        assert_eq!(fs::read(&path).unwrap(), [vec![1; 100], vec![0; 100]].concat());
        nix::unistd::truncate(&path, 3).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 3);
        let large = fs::File::create(root.join("large")).unwrap();
        rustix::fs::fallocate(&large, FallocateFlags::empty(), 0, 40 << 20).unwrap();
        assert_eq!(large.metadata().unwrap().len(), 40 << 20);
        large.set_len(5).unwrap();
        assert!(mounted.session.stats().waited() >= 2);
        assert_eq!(fs::metadata(root.join("large")).unwrap().len(), 5);
    }
}

#[test]
fn holes_are_made_found_and_kept() {
    for mounted in [Mounted::new(), Mounted::without_passthrough()] {
        let root = mounted.empty("a");
        let file = fs::File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(root.join("f"))
            .unwrap();
        file.write_all_at(&[1; 1 << 16], 0).unwrap();
        file.write_all_at(&[1; 1 << 16], 1 << 20).unwrap();
        rustix::fs::fallocate(
            &file,
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            0,
            1 << 12,
        )
        .unwrap();
        let seek = |position| rustix::fs::seek(&file, position).unwrap();
        assert_eq!(seek(rustix::fs::SeekFrom::Data(0)), 1 << 12);
        assert_eq!(seek(rustix::fs::SeekFrom::Hole(1 << 12)), 1 << 16);
        assert_eq!(seek(rustix::fs::SeekFrom::Data(1 << 17)), 1 << 20);
        assert!(fs::metadata(root.join("f")).unwrap().blocks() * 512 < 1 << 18);
    }
}

#[test]
fn ranges_are_copied_on_the_backing_side() {
    let mounted = Mounted::new();
    let root = mounted.empty("a");
    fs::write(root.join("f"), vec![5; 1 << 20]).unwrap();
    assert_eq!(fs::copy(root.join("f"), root.join("g")).unwrap(), 1 << 20);
    assert_eq!(fs::read(root.join("g")).unwrap(), vec![5; 1 << 20]);
    assert!(mounted.count(Op::CopyFileRange) > 0);
    assert_eq!(mounted.count(Op::Write), 0);
}

#[test]
fn space_is_that_of_the_backing_filesystem_and_above_of_the_pool() {
    let mounted = Mounted::new();
    let root = mounted.empty("a");
    let inside = rustix::fs::statvfs(&root).unwrap();
    let backing = rustix::fs::statvfs(mounted.rig.dir.path()).unwrap();
    assert_eq!(
        (inside.f_blocks, inside.f_files, inside.f_namemax),
        (backing.f_blocks, backing.f_files, 255)
    );
    let above = rustix::fs::statvfs(mounted.path("")).unwrap();
    assert!(above.f_blocks > 0 && above.f_bfree <= above.f_blocks);
}

#[test]
fn flags_of_chattr_pass() {
    let mounted = Mounted::new();
    let root = mounted.empty("a");
    fs::write(root.join("f"), "").unwrap();
    let file = fs::File::options().read(true).write(true).open(root.join("f")).unwrap();
    let flags = rustix::fs::ioctl_getflags(&file).unwrap();
    rustix::fs::ioctl_setflags(&file, flags | IFlags::IMMUTABLE).unwrap();
    assert_eq!(errno(fs::File::options().write(true).open(root.join("f"))), libc::EPERM);
    assert_eq!(errno(fs::remove_file(root.join("f"))), libc::EPERM);
    rustix::fs::ioctl_setflags(&file, flags).unwrap();
    let directory = fs::File::open(&root).unwrap();
    rustix::fs::ioctl_getflags(&directory).unwrap();
    let project = crate::sys::ioctl::get_fsxattr(&file).unwrap();
    crate::sys::ioctl::set_fsxattr(&file, &project).unwrap();
    fs::remove_file(root.join("f")).unwrap();
}

#[test]
fn durable_means_asked_of_the_backing_filesystem() {
    let mounted = Mounted::new();
    let root = mounted.empty("a");
    let file = fs::File::create(root.join("f")).unwrap();
    file.sync_all().unwrap();
    file.sync_data().unwrap();
    fs::File::open(&root).unwrap().sync_all().unwrap();
    assert_eq!((mounted.count(Op::Fsync), mounted.count(Op::Fsyncdir)), (2, 1));
}

#[test]
fn mapped_writes_show_in_content_and_times() {
    for mounted in [Mounted::new(), Mounted::without_passthrough()] {
        let root = mounted.empty("a");
        let path = root.join("f");
        fs::write(&path, vec![1; 4096]).unwrap();
        let old = Timespec { tv_sec: 1_000_000, tv_nsec: 0 };
        let times = Timestamps { last_access: old, last_modification: old };
        rustix::fs::utimensat(CWD, &path, &times, AtFlags::empty()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mtime(), 1_000_000);
        // No crate here maps memory, so a program that does is asked: it maps, changes a byte, unmaps.
        let script = "import mmap,sys\nwith open(sys.argv[1],'r+b') as f:\n m=mmap.mmap(f.fileno(),0)\n m[5]=9\n m.flush()\n m.close()";
        let done = std::process::Command::new("python3")
            .args(["-c", script])
            .arg(&path)
            .status()
            .expect("needs python3");
        assert!(done.success());
        assert_eq!(fs::read(&path).unwrap()[5], 9);
        wait_until("the time of the mapped write shows", || {
            fs::metadata(&path).unwrap().mtime() != 1_000_000
        });
    }
}
