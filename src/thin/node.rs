//! From a device number to a path that opens it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use super::dm::DevNum;
use crate::sys::mount::block_device;

/// Where device-mapper's devices have their names.
const PUBLIC: &str = "/dev/mapper";

/// Finds block device nodes, and makes private ones where devtmpfs doesn't (containers).
#[derive(Debug, Clone)]
pub struct Nodes {
    /// Where private nodes go; nobody but root can look into it.
    private: PathBuf,
}

impl Nodes {
    /// Private nodes go to `private`, made when first needed.
    pub fn new(private: PathBuf) -> Self {
        Self { private }
    }

    /// A path that opens the block device `number`.
    pub fn path(&self, number: DevNum) -> io::Result<PathBuf> {
        match self.public(number) {
            Some(path) => Ok(path),
            None => self.make(number),
        }
    }

    /// The node that devtmpfs made, if it is there and is that device.
    fn public(&self, number: DevNum) -> Option<PathBuf> {
        let uevent = fs::read_to_string(format!("/sys/dev/block/{number}/uevent")).ok()?;
        let name = uevent.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
        let path = Path::new("/dev").join(name);
        is(&path, number).then_some(path)
    }

    fn make(&self, number: DevNum) -> io::Result<PathBuf> {
        let path = self.private_path(number);
        if is(&path, number) {
            return Ok(path);
        }
        fs::create_dir_all(&self.private)?;
        let device = makedev(number.major, number.minor);
        match mknodat(CWD, &path, FileType::BlockDevice, Mode::RUSR | Mode::WUSR, device) {
            Ok(()) => Ok(path),
            Err(rustix::io::Errno::EXIST) if is(&path, number) => Ok(path),
            Err(errno) => Err(errno.into()),
        }
    }

    /// A node for everybody, named in the directory where such names are looked for. udev leaves our
    /// devices alone and so makes none. One of that name which is another device's is replaced.
    pub fn publish(&self, number: DevNum, name: &str) -> io::Result<PathBuf> {
        let path = self.published(name);
        if is(&path, number) {
            return Ok(path);
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let device = makedev(number.major, number.minor);
        mknodat(CWD, &path, FileType::BlockDevice, Mode::RUSR | Mode::WUSR, device)?;
        Ok(path)
    }

    /// Where the node of that name is, or would be.
    pub fn published(&self, name: &str) -> PathBuf {
        Path::new(PUBLIC).join(name)
    }

    /// Removes the node of a device that is gone.
    pub fn withdraw(&self, name: &str) {
        if let Err(error) = fs::remove_file(self.published(name))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(name, %error, "the node of a device that is gone stays");
        }
    }

    /// Forgets the private node of a device that was removed.
    pub fn forget(&self, number: DevNum) {
        // Absent where devtmpfs gives nodes: the usual case.
        let _ = fs::remove_file(self.private_path(number));
    }

    fn private_path(&self, number: DevNum) -> PathBuf {
        self.private.join(format!("b{}-{}", number.major, number.minor))
    }
}

fn is(path: &Path, number: DevNum) -> bool {
    block_device(path).ok().flatten().map(DevNum::from) == Some(number)
}
