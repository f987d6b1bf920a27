//! How many requests things cost. These counts have no noise, unlike times.

use std::fs;

use super::*;

/// A snapshot with a few directories and files, looked at once.
fn warm(mounted: &Mounted) -> PathBuf {
    let root = mounted.empty("a");
    for n in 0..10 {
        fs::create_dir(root.join(format!("d{n}"))).unwrap();
        for m in 0..10 {
            fs::write(root.join(format!("d{n}/f{m}")), "content").unwrap();
        }
    }
    walk(&root);
    walk(&root);
    root
}

fn walk(path: &Path) -> usize {
    let mut count = 1;
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        // Not by the standard library, which asks for the birth time too.
        let stat = rustix::fs::lstat(&path).unwrap();
        let is_dir = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir();
        count += if is_dir { walk(&path) } else { 1 };
    }
    count
}

#[test]
fn what_has_been_seen_is_not_asked_for_again() {
    let mounted = Mounted::new();
    let root = warm(&mounted);
    assert_eq!(mounted.requests(|| assert_eq!(walk(&root), 111)), 0);
    let file = root.join("d3/f4");
    assert_eq!(mounted.requests(|| assert!(rustix::fs::stat(&file).is_ok())), 0);
    assert_eq!(mounted.requests(|| _ = fs::metadata(&file).unwrap()), 1, "its birth time");
    assert_eq!(mounted.requests(|| _ = fs::metadata(&file).unwrap()), 0);
}

#[test]
fn absent_name_is_asked_for_once() {
    let mounted = Mounted::new();
    let root = warm(&mounted);
    let absent = || assert!(!root.join("d1/absent").exists());
    assert_eq!(mounted.requests(absent), 1);
    assert_eq!(mounted.requests(absent), 0);
    fs::write(root.join("d1/absent"), "").unwrap();
    assert!(root.join("d1/absent").exists());
}

#[test]
fn first_walk_asks_once_or_twice_a_directory() {
    let mounted = Mounted::new();
    let root = warm(&mounted);
    drop_caches();
    let requests = mounted.requests(|| assert_eq!(walk(&root), 111));
    assert!(requests <= 11 * 2 + 5, "{requests}");
}

fn drop_caches() {
    fs::write("/proc/sys/vm/drop_caches", "2").expect("needs root");
}

#[test]
fn open_read_close_is_one_request_with_passthrough() {
    let mounted = Mounted::new();
    let root = warm(&mounted);
    // The standard library asks for attributes with the birth time, which the kernel learns once.
    fs::metadata(root.join("d1/f1")).unwrap();
    assert_eq!(mounted.requests(|| drop(fs::read(root.join("d1/f1")).unwrap())), 1);
}

#[test]
fn second_read_costs_no_data_without_passthrough() {
    let mounted = Mounted::without_passthrough();
    let root = warm(&mounted);
    fs::read(root.join("d1/f1")).unwrap();
    let before = mounted.count(Op::Read);
    fs::read(root.join("d1/f1")).unwrap();
    assert_eq!(mounted.count(Op::Read), before);
}

#[test]
fn link_is_read_once() {
    let mounted = Mounted::new();
    let root = mounted.empty("a");
    std::os::unix::fs::symlink("target", root.join("l")).unwrap();
    fs::read_link(root.join("l")).unwrap();
    assert_eq!(mounted.requests(|| drop(fs::read_link(root.join("l")).unwrap())), 0);
}

#[test]
fn creating_a_small_file_takes_at_most_four_requests() {
    let mounted = Mounted::new();
    let root = warm(&mounted);
    fs::write(root.join("d1/first"), "x").unwrap();
    let requests = mounted.requests(|| fs::write(root.join("d1/second"), vec![1; 4096]).unwrap());
    assert!(requests <= 4, "{requests}");
}

#[test]
fn appending_asks_nothing_of_the_daemon_but_the_open() {
    use std::io::Write;
    let mounted = Mounted::new();
    let root = warm(&mounted);
    let mut file = fs::File::options().append(true).open(root.join("d1/f1")).unwrap();
    file.write_all(b"once").unwrap();
    let requests = mounted.requests(|| (0..100).for_each(|_| file.write_all(b"again").unwrap()));
    assert_eq!(requests, 0);
}
