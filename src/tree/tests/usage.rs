//! Counting.

use super::*;

#[test]
fn usage_counts_blocks_and_each_inode_once() {
    let base = tempfile::tempdir().unwrap();
    let root = base.path();
    fs::create_dir(root.join("d")).unwrap();
    fs::write(root.join("d/file"), vec![1; 100_000]).unwrap();
    fs::hard_link(root.join("d/file"), root.join("again")).unwrap();
    File::create(root.join("hole")).unwrap().set_len(1 << 30).unwrap();
    symlink("x", root.join("link")).unwrap();
    let blocks = |path: &str| fs::symlink_metadata(root.join(path)).unwrap().blocks() * 512;
    let usage = usage(dir(root).as_fd(), &NEVER).unwrap();
    assert_eq!(usage.inodes, 5);
    assert_eq!(usage.size, ["", "d", "d/file", "hole", "link"].map(blocks).iter().sum::<u64>());
    assert!(usage.size < 200_000);
}

#[test]
fn usage_is_cancelled() {
    let base = tempfile::tempdir().unwrap();
    fs::write(base.path().join("x"), "").unwrap();
    let result = usage(dir(base.path()).as_fd(), &AtomicBool::new(true));
    assert!(matches!(result, Err(Error::Cancelled)));
}

#[test]
fn usage_survives_renames_under_way() {
    let base = tempfile::tempdir().unwrap();
    for a in 0..20 {
        fs::create_dir_all(base.path().join(format!("{a}/x/y/z"))).unwrap();
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                fs::rename(base.path().join("0/x"), base.path().join("1/moved")).unwrap();
                fs::rename(base.path().join("1/moved"), base.path().join("0/x")).unwrap();
            }
        });
        let results: Vec<_> = (0..200).map(|_| usage(dir(base.path()).as_fd(), &NEVER)).collect();
        stop.store(true, Ordering::Relaxed);
        for result in results {
            assert!(result.unwrap().inodes >= 78);
        }
    });
}
