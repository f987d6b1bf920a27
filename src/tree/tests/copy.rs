//! Copying.

use super::*;

#[test]
fn copy_keeps_everything() {
    let base = tempfile::tempdir().unwrap();
    let (from, to) = two_dirs(base.path());
    everything(&from);
    let before = manifest(&from);
    let copied = copy_quietly(&from, &to).unwrap();
    let (after, source) = (manifest(&to), manifest(&from));
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    for (path, entry) in &before {
        assert_eq!(&after[path], entry, "{}", path.display());
    }
    assert!(source.keys().eq(before.keys()));
    assert_eq!(copied.method, Some(Method::FullCopy));
    assert_eq!(copied.total.inodes, usage(dir(&to).as_fd(), &NEVER).unwrap().inodes);
    assert_eq!(differences(&from, &to, DiffOptions::default()), [""; 0]);
}

#[test]
fn copy_does_not_touch_the_access_times_of_its_source() {
    let base = tempfile::tempdir().unwrap();
    let (from, to) = two_dirs(base.path());
    everything(&from);
    let times = |path: &str| fs::symlink_metadata(from.join(path)).unwrap().atime();
    let before = ["", "a", "a/file", "sparse"].map(times);
    copy_quietly(&from, &to).unwrap();
    assert_eq!(["", "a", "a/file", "sparse"].map(times), before);
}

#[test]
fn copy_keeps_holes() {
    let base = tempfile::tempdir().unwrap();
    let (from, to) = two_dirs(base.path());
    let mut file = File::create(from.join("sparse")).unwrap();
    for at in [0_u64, 10 << 20, 20 << 20] {
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(&[1; 8192]).unwrap();
    }
    file.set_len(100 << 20).unwrap();
    copy_quietly(&from, &to).unwrap();
    let stat = fs::metadata(to.join("sparse")).unwrap();
    assert_eq!(stat.size(), 100 << 20);
    assert!(stat.blocks() * 512 <= 64 << 10, "{} blocks", stat.blocks());
    assert_eq!(
        differences(&from, &to, DiffOptions { content: true, ..Default::default() }),
        [""; 0]
    );
}

#[test]
fn copy_on_xfs_shares_blocks_and_keeps_everything() {
    let scratch = Scratch::xfs();
    let (from, to) = two_dirs(&scratch.path());
    everything(&from);
    let before = manifest(&from);
    assert_eq!(copy_quietly(&from, &to).unwrap().method, Some(Method::Reflink));
    assert_eq!(manifest(&to), before);

    let (from, to) = two_dirs(&to);
    fs::write(from.join("large"), vec![3; 100 << 20]).unwrap();
    let free = || {
        rustix::fs::syncfs(dir(&from)).unwrap();
        rustix::fs::statvfs(scratch.path()).unwrap().f_bfree * 4096
    };
    let before = free();
    assert_eq!(copy_quietly(&from, &to).unwrap().method, Some(Method::Reflink));
    assert!(before - free() < 10 << 20);
    assert_eq!(fs::metadata(to.join("large")).unwrap().size(), 100 << 20);
}

#[test]
fn copy_between_filesystems_falls_back() {
    let scratch = Scratch::xfs();
    let base = tempfile::tempdir().unwrap();
    let from = base.path().join("from");
    let to = scratch.path().join("to");
    fs::create_dir(&from).unwrap();
    fs::create_dir(&to).unwrap();
    everything(&from);
    let before = manifest(&from);
    assert_eq!(copy_quietly(&from, &to).unwrap().method, Some(Method::FullCopy));
    assert_eq!(manifest(&to), before);
}

#[test]
fn links_out_of_the_tree_are_no_links_in_the_copy() {
    let base = tempfile::tempdir().unwrap();
    let (from, to) = two_dirs(base.path());
    fs::write(from.join("x"), "x").unwrap();
    fs::hard_link(from.join("x"), base.path().join("outside")).unwrap();
    // The name that staging would like to have.
    fs::create_dir(from.join(".thinfs-links-0")).unwrap();
    copy_quietly(&from, &to).unwrap();
    assert_eq!(fs::metadata(to.join("x")).unwrap().nlink(), 1);
    assert_eq!(fs::read_dir(&to).unwrap().count(), 2);
}

#[test]
fn a_new_root_inherits_no_acl() {
    let base = tempfile::tempdir().unwrap();
    let (from, to) = (base.path().join("from"), base.path().join("to"));
    fs::create_dir_all(from.join("sub")).unwrap();
    fs::write(from.join("sub/file"), "").unwrap();
    set_xattr(base.path(), "system.posix_acl_default", ACL);
    fs::create_dir(&to).unwrap();
    copy_quietly(&from, &to).unwrap();
    assert_eq!(manifest(&to), manifest(&from));
}

#[test]
fn ten_thousand_levels_are_copied_compared_counted_and_removed() {
    let base = tempfile::tempdir().unwrap();
    let (from, to) = two_dirs(base.path());
    let bottom = nest(&from, "d", 10_000);
    mknodat(&bottom, "file", FileType::RegularFile, Mode::RUSR, 0).unwrap();
    drop(bottom);
    let before = open_descriptors();
    copy_quietly(&from, &to).unwrap();
    assert_eq!(usage(dir(&to).as_fd(), &NEVER).unwrap().inodes, 10_002);
    assert_eq!(differences(&from, &to, DiffOptions::default()), [""; 0]);
    remove_all(base.path(), "one").unwrap();
    remove_all(base.path(), "two").unwrap();
    assert_eq!(fs::read_dir(base.path()).unwrap().count(), 0);
    assert!(open_descriptors() <= before);
}

fn open_descriptors() -> usize {
    // Other tests of this process may open some too, but hardly a thousand.
    fs::read_dir("/proc/self/fd").unwrap().count() / 1000
}

#[test]
fn copy_reports_progress_and_can_be_cancelled() {
    let base = tempfile::tempdir().unwrap();
    let (from, to) = two_dirs(base.path());
    for number in 0..50 {
        fs::write(from.join(number.to_string()), vec![1; 10_000]).unwrap();
    }
    let cancel = AtomicBool::new(false);
    let last = Mutex::new(Progress::default());
    let progress = |now: Progress| {
        let mut last = last.lock().unwrap();
        last.bytes = last.bytes.max(now.bytes);
        last.inodes = last.inodes.max(now.inodes);
        if now.bytes >= 200_000 {
            cancel.store(true, Ordering::Relaxed);
        }
    };
    let control = Control { cancel: &cancel, progress: &progress };
    let result = copy(dir(&from).as_fd(), dir(&to).as_fd(), control);
    assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
    let last = *last.lock().unwrap();
    assert!((200_000..500_000).contains(&last.bytes) && last.inodes < 50, "{last:?}");
    remove_all(base.path(), "two").unwrap();
}

#[test]
fn failed_copy_names_the_file() {
    let base = tempfile::tempdir().unwrap();
    let (from, to) = two_dirs(base.path());
    fs::create_dir_all(from.join("x/y")).unwrap();
    fs::write(from.join("x/y/file"), "new").unwrap();
    fs::create_dir_all(to.join("x")).unwrap();
    let error = copy_quietly(&from, &to).unwrap_err();
    assert_eq!(error.to_string(), r#"making directory "x""#);
    assert_eq!(error.raw_os_error(), Some(libc::EEXIST));
}
