//! Loop devices: attach a file, find what a file is attached to, detach.
//!
//! A loop device outlives the process that attached it: whoever attaches must detach, or find it
//! again by its backing file after a restart.
#![allow(unsafe_code, reason = "loop ioctls have no safe wrapper in rustix or nix")]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LOOP_CLR_FD: libc::c_ulong = 0x4C01;
const LOOP_GET_STATUS64: libc::c_ulong = 0x4C05;
const LOOP_SET_CAPACITY: libc::c_ulong = 0x4C07;
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;

const LO_FLAGS_READ_ONLY: u32 = 1;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// How often a free number may be taken by somebody else before we give up.
const ATTACH_TRIES: usize = 64;

/// `struct loop_info64` of the kernel's `linux/loop.h`.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config` of the kernel's `linux/loop.h` (Linux 5.8).
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

impl LoopInfo64 {
    const ZERO: Self = Self {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: 0,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
}

/// How a loop device reads and writes its backing file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoMode {
    /// Past the page cache: nothing is cached twice, and a flush is a flush.
    Direct,
    /// Through the page cache of the backing file.
    Buffered,
}

/// What the kernel says about an attached loop device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoopStatus {
    /// Direct or buffered.
    pub io: IoMode,
    /// Refuses writes.
    pub read_only: bool,
    /// Detaches itself at its last close.
    pub autoclear: bool,
    /// Encoded device number of the backing file's filesystem.
    device: u64,
    /// Inode number of the backing file.
    inode: u64,
}

/// A loop device, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoopDevice {
    number: u32,
}

impl LoopDevice {
    /// Attaches `backing`, read-write, with direct I/O where the backing filesystem can do that
    /// at a sector size of 512 or 4096 bytes, else buffered (see [`LoopDevice::status`]).
    pub fn attach(backing: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(backing)?;
        for block_size in [512, 4096] {
            let attached = Self::attach_with(&file, IoMode::Direct, block_size)?;
            if attached.status()?.io == IoMode::Direct {
                return Ok(attached);
            }
            attached.detach(Duration::from_secs(5))?;
        }
        Self::attach_with(&file, IoMode::Buffered, 512)
    }

    fn attach_with(backing: &File, mode: IoMode, block_size: u32) -> io::Result<Self> {
        let mut config = LoopConfig {
            fd: backing.as_raw_fd() as u32,
            block_size,
            info: LoopInfo64::ZERO,
            reserved: [0; 8],
        };
        if mode == IoMode::Direct {
            config.info.flags = LO_FLAGS_DIRECT_IO;
        }
        for _ in 0..ATTACH_TRIES {
            let free = Self::free()?;
            match configure(free.open(true)?.as_fd(), &config) {
                // Somebody else was faster: ask for another number.
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {}
                Err(e) => return Err(e),
                Ok(()) => return Ok(free),
            }
        }
        Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "every free loop device was taken by others",
        ))
    }

    /// A number that nobody uses at this moment.
    fn free() -> io::Result<Self> {
        let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control")?;
        let number = ioctl_value(control.as_fd(), LOOP_CTL_GET_FREE)?;
        Ok(Self { number: number as u32 })
    }

    /// The loop devices that `backing` is attached to.
    pub fn find(backing: &Path) -> io::Result<Vec<Self>> {
        let file = fs::metadata(backing)?;
        let (device, inode) = (kernel_encoding(file.dev()), file.ino());
        let attached = Self::attached()?;
        Ok(attached
            .into_iter()
            .filter(|(_, status)| (status.device, status.inode) == (device, inode))
            .map(|(found, _)| found)
            .collect())
    }

    /// Every attached loop device of the machine.
    fn attached() -> io::Result<Vec<(Self, LoopStatus)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/sys/block")? {
            let entry = entry?;
            let name = entry.file_name();
            let number =
                name.to_str().and_then(|n| n.strip_prefix("loop")).and_then(|n| n.parse().ok());
            let (Some(number), true) = (number, entry.path().join("loop").exists()) else {
                continue;
            };
            let candidate = Self { number };
            // Detached since the listing, or no node for it: not ours in either case.
            if let Ok(status) = candidate.status() {
                found.push((candidate, status));
            }
        }
        Ok(found)
    }

    /// `/dev/loopN`.
    pub fn path(self) -> PathBuf {
        PathBuf::from(format!("/dev/loop{}", self.number))
    }

    /// Asks the kernel about the device; ENXIO once it is detached.
    pub fn status(self) -> io::Result<LoopStatus> {
        let mut info = LoopInfo64::ZERO;
        // SAFETY: `info` is a loop_info64, which this ioctl fills, and outlives the call.
        // JUSTIFICATION: no safe wrapper exists for LOOP_GET_STATUS64.
        let answer =
            unsafe { libc::ioctl(self.open(false)?.as_raw_fd(), LOOP_GET_STATUS64, &mut info) };
        check(answer)?;
        Ok(LoopStatus {
            io: if info.flags & LO_FLAGS_DIRECT_IO == 0 {
                IoMode::Buffered
            } else {
                IoMode::Direct
            },
            read_only: info.flags & LO_FLAGS_READ_ONLY != 0,
            autoclear: info.flags & LO_FLAGS_AUTOCLEAR != 0,
            device: info.device,
            inode: info.inode,
        })
    }

    /// Takes over a changed size of the backing file.
    pub fn refresh_capacity(self) -> io::Result<()> {
        ioctl_value(self.open(false)?.as_fd(), LOOP_SET_CAPACITY).map(drop)
    }

    /// Detaches and waits until the backing file is let go of. A device that somebody else has
    /// open detaches itself when they close it: after `patience` that is an error.
    pub fn detach(self, patience: Duration) -> io::Result<()> {
        let deadline = Instant::now() + patience;
        match self.open(false).and_then(|device| ioctl_value(device.as_fd(), LOOP_CLR_FD)) {
            Err(e) if e.raw_os_error() == Some(libc::ENXIO) => return Ok(()),
            other => other.map(drop)?,
        }
        loop {
            match self.status() {
                Err(e) if e.raw_os_error() == Some(libc::ENXIO) => return Ok(()),
                Err(e) => return Err(e),
                Ok(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
                Ok(_) => {
                    let text = format!(
                        "{} is open elsewhere and detaches at its last close",
                        self.path().display()
                    );
                    return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
                }
            }
        }
    }

    /// Only attaching needs write access, and each close after a writable open makes udev look.
    fn open(self, writable: bool) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(writable)
            .custom_flags(libc::O_CLOEXEC)
            .open(self.path())
    }
}

fn configure(device: BorrowedFd<'_>, config: &LoopConfig) -> io::Result<()> {
    // SAFETY: `config` is a whole loop_config, which this ioctl only reads.
    // JUSTIFICATION: no safe wrapper exists for LOOP_CONFIGURE.
    check(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, config) }).map(drop)
}

/// An ioctl without an argument that answers with a number.
fn ioctl_value(device: BorrowedFd<'_>, request: libc::c_ulong) -> io::Result<i32> {
    // SAFETY: the requests used here take no pointer.
    // JUSTIFICATION: no safe wrapper exists for the loop ioctls.
    check(unsafe { libc::ioctl(device.as_raw_fd(), request, 0) })
}

fn check(answer: libc::c_int) -> io::Result<libc::c_int> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer) }
}

/// The kernel's `huge_encode_dev` of a device number as `stat` gives it.
fn kernel_encoding(dev: u64) -> u64 {
    let (major, minor) = (u64::from(libc::major(dev)), u64::from(libc::minor(dev)));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Detaches what a failing test leaves attached.
    struct Attached(LoopDevice);
    impl Drop for Attached {
        fn drop(&mut self) {
            let _ = self.0.detach(Duration::from_secs(5));
        }
    }

    fn backing(dir: &Path, bytes: u64) -> PathBuf {
        let path = dir.join("backing");
        File::create(&path).unwrap().set_len(bytes).unwrap();
        path
    }

    #[test]
    fn an_attached_file_is_found_by_its_path_until_it_is_detached() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = backing(dir.path(), 4 << 20);
        assert_eq!(LoopDevice::find(&path).unwrap(), []);
        let device = Attached(LoopDevice::attach(&path).expect("needs root and /dev/loop-control"));
        assert_eq!(LoopDevice::find(&path).unwrap(), [device.0]);
        assert!(!device.0.status().unwrap().read_only);
        device.0.detach(Duration::from_secs(5)).unwrap();
        assert_eq!(LoopDevice::find(&path).unwrap(), []);
        device.0.detach(Duration::from_secs(5)).expect("detaching twice is fine");
    }

    #[test]
    fn a_grown_file_shows_its_new_size_after_refresh() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = backing(dir.path(), 4 << 20);
        let device = Attached(LoopDevice::attach(&path).expect("needs root and /dev/loop-control"));
        File::options().write(true).open(&path).unwrap().set_len(8 << 20).unwrap();
        device.0.refresh_capacity().unwrap();
        let sectors =
            fs::read_to_string(format!("/sys/block/loop{}/size", device.0.number)).unwrap();
        assert_eq!(sectors.trim(), ((8 << 20) / 512).to_string());
    }

    #[test]
    fn a_device_open_elsewhere_is_reported_and_detaches_at_the_last_close() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = backing(dir.path(), 4 << 20);
        let device = Attached(LoopDevice::attach(&path).expect("needs root and /dev/loop-control"));
        let opener = device.0.open(false).unwrap();
        let refused = device.0.detach(Duration::from_millis(20)).unwrap_err();
        assert!(refused.to_string().contains("open elsewhere"), "{refused}");
        drop(opener);
        assert_eq!(LoopDevice::find(&path).unwrap(), []);
    }
}
