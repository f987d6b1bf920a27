//! Files, directories, links.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};

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
        file.seek(SeekFrom::Start(1_000_000)).unwrap();
        file.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"changed");
        drop(file);
        fs::File::options().append(true).open(root.join("file")).unwrap().write_all(b"end").unwrap();
        assert_eq!(fs::metadata(root.join("file")).unwrap().len(), 3_000_003);
        fs::File::options().write(true).truncate(true).open(root.join("file")).unwrap();
        assert_eq!(fs::metadata(root.join("file")).unwrap().len(), 0);
    }
}

#[test]
fn root_lists_the_kinds_and_kinds_list_snapshots() {
    let mounted = Mounted::new();
    mounted.empty("one");
    mounted.empty("two/slash");
    let names = |path: PathBuf| {
        let mut names: Vec<_> = fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(mounted.path("")), [".ns", "active", "committed", "view"]);
    assert_eq!(names(mounted.path("active")), ["one", "two%2Fslash"]);
    assert_eq!(names(mounted.path("view")), Vec::<String>::new());
}
