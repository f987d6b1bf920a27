//! Comparing.

use super::*;

#[test]
fn diff_tells_each_kind_of_change_in_order() {
    let base = tempfile::tempdir().unwrap();
    let (old, new) = two_dirs(base.path());
    everything(&old);
    copy_quietly(&old, &new).unwrap();
    chmod(&new.join("a"), 0o700);
    fs::write(new.join("a/file"), "CONTENT").unwrap();
    fs::remove_dir_all(new.join("a/deep")).unwrap();
    fs::create_dir_all(new.join("a/new/sub")).unwrap();
    fs::write(new.join("a/new/sub/x"), "").unwrap();
    fs::remove_file(new.join("a/link")).unwrap();
    symlink("elsewhere", new.join("a/link")).unwrap();
    std::os::unix::fs::lchown(new.join("a/link"), Some(5), Some(6)).unwrap();
    fs::remove_file(new.join("char")).unwrap();
    mknodat(CWD, new.join("char"), FileType::CharacterDevice, Mode::RUSR, makedev(5, 301)).unwrap();
    chmod(&new.join("char"), 0o4642);
    fs::remove_dir(new.join("empty dir")).unwrap();
    fs::write(new.join("empty dir"), "file now").unwrap();
    fs::remove_file(new.join("fifo")).unwrap();
    fs::create_dir(new.join("fifo")).unwrap();
    fs::write(new.join("fifo/inside"), "").unwrap();
    set_xattr(&new.join("sparse"), "user.new", b"");
    std::os::unix::fs::chown(new.join("block"), Some(1), None).unwrap();
    assert_eq!(
        differences(&old, &new, DiffOptions::default()),
        [
            "M a",
            "D a/deep",
            "M a/file",
            "M a/link",
            "A a/new",
            "A a/new/sub",
            "A a/new/sub/x",
            "M block",
            "M char",
            "M empty dir",
            "M fifo",
            "A fifo/inside",
            "M same",
            "M sparse",
        ]
    );
}

#[test]
fn diff_of_equal_times_reads_bytes_when_they_prove_nothing() {
    let base = tempfile::tempdir().unwrap();
    let (old, new) = two_dirs(base.path());
    for (name, nanoseconds) in [("coarse", 0), ("fine", 5)] {
        fs::write(old.join(name), vec![1; 300_000]).unwrap();
        let mut changed = vec![1; 300_000];
        changed[299_999] = 2;
        fs::write(new.join(name), changed).unwrap();
        set_times(&old.join(name), 1000, nanoseconds);
        set_times(&new.join(name), 1000, nanoseconds);
    }
    assert_eq!(differences(&old, &new, DiffOptions::default()), ["M coarse"]);
    let content = DiffOptions { content: true, ..Default::default() };
    assert_eq!(differences(&old, &new, content), ["M coarse", "M fine"]);
    // Equal bytes with other times: touched, not changed.
    fs::write(new.join("fine"), vec![1; 300_000]).unwrap();
    assert_eq!(differences(&old, &new, content), ["M coarse"]);
    assert_eq!(differences(&old, &new, DiffOptions::default()), ["M coarse", "M fine"]);
}

#[test]
fn diff_of_one_lineage_skips_unchanged_inodes() {
    let base = tempfile::tempdir().unwrap();
    let (old, new) = two_dirs(base.path());
    fs::write(old.join("shared"), "x").unwrap();
    fs::hard_link(old.join("shared"), new.join("shared")).unwrap();
    // Permitted to skip, and sound: the very same inode can't differ.
    let lineage = DiffOptions { same_lineage: true, content: true, ..Default::default() };
    assert_eq!(differences(&old, &new, lineage), [""; 0]);
    fs::write(new.join("own"), "x").unwrap();
    fs::write(old.join("own"), "y").unwrap();
    assert_eq!(differences(&old, &new, lineage), ["M own"]);
}

#[test]
fn diff_stops_when_told_or_cancelled() {
    let base = tempfile::tempdir().unwrap();
    let (old, new) = two_dirs(base.path());
    for name in ["1", "2", "3"] {
        fs::write(new.join(name), "").unwrap();
    }
    let mut seen = 0;
    let options = DiffOptions::default();
    let mut stop = |_: Change<'_>| {
        seen += 1;
        ControlFlow::Break(())
    };
    diff(dir(&old).as_fd(), dir(&new).as_fd(), options, &NEVER, &mut stop).unwrap();
    let cancelled = AtomicBool::new(true);
    let result = diff(dir(&old).as_fd(), dir(&new).as_fd(), options, &cancelled, &mut stop);
    assert!(matches!(result, Err(Error::Cancelled)));
    assert_eq!(seen, 1);
}

#[test]
fn diff_of_roots_is_told_with_an_empty_path() {
    let base = tempfile::tempdir().unwrap();
    let (old, new) = two_dirs(base.path());
    chmod(&new, 0o700);
    chmod(&old, 0o755);
    assert_eq!(differences(&old, &new, DiffOptions::default()), ["M "]);
}

/// A fifo nobody writes to would block an open for ever, and a symlink or mount would lead out.
#[test]
fn walks_open_no_fifo_and_follow_no_symlink() {
    let base = tempfile::tempdir().unwrap();
    let (old, new) = two_dirs(base.path());
    for root in [&old, &new] {
        mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        symlink("/proc", root.join("proc")).unwrap();
        set_times(&root.join("fifo"), 1, 0);
    }
    let options = DiffOptions { content: true, ..Default::default() };
    let started = SystemTime::now();
    assert_eq!(differences(&old, &new, options), [""; 0]);
    assert_eq!(usage(dir(&old).as_fd(), &NEVER).unwrap().inodes, 3);
    assert!(open::regular(dir(&old).as_fd(), c"fifo").is_err());
    assert!(open::regular(dir(&old).as_fd(), c"proc").is_err());
    assert!(open::directory(dir(&old).as_fd(), c"proc").is_err());
    assert!(started.elapsed().unwrap() < Duration::from_secs(5));
}
