//! A filesystem for a benchmark alone: ext4 as mkfs makes it, on a loop device with direct I/O. What the machine's own
//! was made for is nobody's business here, and can be far from what users have (without a journal, for one).

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Mounted until dropped.
pub struct Disk {
    device: PathBuf,
    at: PathBuf,
}

impl Disk {
    /// Makes one of `bytes`, in a sparse file in `dir`, mounted at `dir/disk`.
    pub fn new(dir: &Path, bytes: u64) -> Disk {
        let (image, at) = (dir.join("disk.img"), dir.join("disk"));
        File::create(&image).unwrap().set_len(bytes).unwrap();
        std::fs::create_dir(&at).unwrap();
        let lazy: &OsStr = "lazy_itable_init=0,lazy_journal_init=0".as_ref();
        run("mkfs.ext4", &["-q".as_ref(), "-E".as_ref(), lazy, image.as_ref()]);
        let options = ["--find", "--show", "--direct-io=on"].map(OsStr::new);
        let device = run("losetup", &[&options[..], &[image.as_ref()]].concat());
        let disk = Disk { device: device.trim_end().into(), at };
        run("mount", &[disk.device.as_ref(), disk.at.as_ref()]);
        disk
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.at
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for (program, at) in [
            ("umount", ["-l".as_ref(), self.at.as_os_str()]),
            ("losetup", ["-d".as_ref(), self.device.as_os_str()]),
        ] {
            let _ = Command::new(program).args(at).status();
        }
    }
}

fn run(program: &str, arguments: &[&OsStr]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|e| panic!("start {program}: {e}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
