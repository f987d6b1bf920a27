//! The plain words of the file tree: node ids, attributes, callers. Knows no FUSE.

use std::ffi::OsString;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FileType, Stat};

use super::Result;
use crate::types::SnapshotId;

/// For as long as the kernel likes: only the daemon changes what is below a snapshot, and what it changes
/// behind the kernel's back it invalidates. (68 years; the protocol has no infinity.)
pub const FOREVER: Duration = Duration::from_secs(1 << 31);

/// Names a file or directory to the kernel, and is its inode number: the snapshot's id above, below it the
/// inode number in the snapshot's filesystem. Snapshot 0 holds the virtual directories; inode 1, which no
/// filesystem gives to a file, is the root of any snapshot, so that it has a name before anything is
/// activated.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The lower half of a snapshot's root directory.
    pub const ROOT_INO: u32 = 1;

    /// A node of a snapshot.
    pub fn new(snapshot: SnapshotId, ino: u32) -> Self {
        Self(u64::from(snapshot.0) << 32 | u64::from(ino))
    }

    /// The root directory of a snapshot.
    pub fn root_of(snapshot: SnapshotId) -> Self {
        Self::new(snapshot, Self::ROOT_INO)
    }

    /// The snapshot that it belongs to; `None` for virtual directories.
    pub fn snapshot(self) -> Option<SnapshotId> {
        match (self.0 >> 32) as u32 {
            0 => None,
            snapshot => Some(SnapshotId(snapshot)),
        }
    }

    /// The lower half.
    pub fn ino(self) -> u32 {
        self.0 as u32
    }

    /// Whether it is the root directory of a snapshot.
    pub fn is_snapshot_root(self) -> bool {
        self.ino() == Self::ROOT_INO && self.snapshot().is_some()
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0 >> 32, self.ino())
    }
}

/// Who asks, and whether the answer may take long.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// Filesystem uid; [`Caller::UNSAID`] where the kernel doesn't say it.
    pub uid: u32,
    /// Filesystem gid; [`Caller::UNSAID`] where the kernel doesn't say it.
    pub gid: u32,
    /// Thread id; 0 when it is in a process namespace that we don't see.
    pub pid: u32,
    /// Applies to what is created, unless the directory has a default ACL.
    pub umask: u32,
    /// Whether it holds `CAP_FSETID`, as far as the kernel has said.
    pub fsetid: Option<bool>,
    /// Whether the operation may wait for a device, a mount or the store. If not it answers
    /// [`super::Error::WouldWait`] before it has changed anything.
    pub may_wait: bool,
}

impl Caller {
    /// Where mounts may be idmapped, the kernel says only of those who make something who they are: on that
    /// mount. Who may do what it decides by itself.
    pub const UNSAID: u32 = u32::MAX;

    /// Whether it is root, on this machine and not only in a user namespace. Where the kernel didn't say it,
    /// this looks into /proc, and takes whom it doesn't see there for another.
    pub fn is_root(&self) -> bool {
        if self.uid != Self::UNSAID {
            return self.uid == 0;
        }
        std::fs::read_to_string(format!("/proc/{}/status", self.pid))
            .is_ok_and(|status| filesystem_uid(&status) == Some(0))
    }

    /// Whether it is in a group. The kernel says only one of its groups, the rest stands in /proc.
    pub fn is_in_group(&self, gid: u32) -> bool {
        self.gid == gid
            || std::fs::read_to_string(format!("/proc/{}/status", self.pid))
                .is_ok_and(|status| groups(&status).any(|group| group == gid))
    }

    /// Whether it holds `CAP_FSETID`; root is taken to.
    pub fn holds_fsetid(&self) -> bool {
        self.fsetid.unwrap_or_else(|| self.is_root())
    }
}

/// The last of the four uids in `/proc/<pid>/status`.
fn filesystem_uid(status: &str) -> Option<u32> {
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    uids.split_whitespace().nth(3)?.parse().ok()
}

/// A moment as file systems keep it: seconds since the epoch, and nanoseconds after that second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// Seconds, negative before 1970.
    pub seconds: i64,
    /// Below 1,000,000,000.
    pub nanoseconds: u32,
}

impl From<SystemTime> for Moment {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => {
                Self { seconds: after.as_secs() as i64, nanoseconds: after.subsec_nanos() }
            }
            Err(before) => {
                let before = before.duration();
                let borrow = i64::from(before.subsec_nanos() > 0);
                let nanoseconds = (1_000_000_000 - before.subsec_nanos()) % 1_000_000_000;
                Self { seconds: -(before.as_secs() as i64) - borrow, nanoseconds }
            }
        }
    }
}

/// What `utimensat` is to do with one of the times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// Leave it.
    Keep,
    /// The present.
    Now,
    /// This moment.
    To(Moment),
}

/// The attributes of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// Also the inode number.
    pub node: NodeId,
    /// Type and permissions, as in `st_mode`.
    pub mode: u32,
    /// Number of hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// Major and minor number of a device node.
    pub device: (u32, u32),
    /// In bytes.
    pub size: u64,
    /// In 512-byte units.
    pub blocks: u64,
    /// Last access.
    pub atime: Moment,
    /// Last change of content.
    pub mtime: Moment,
    /// Last change of attributes.
    pub ctime: Moment,
}

impl Attr {
    /// The attributes that a backing filesystem reports, under our node id.
    pub fn of(node: NodeId, stat: &Stat) -> Self {
        let moment = |seconds, nanoseconds| Moment { seconds, nanoseconds };
        Self {
            node,
            mode: stat.st_mode,
            nlink: stat.st_nlink as u32,
            uid: stat.st_uid,
            gid: stat.st_gid,
            device: (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
            size: stat.st_size as u64,
            blocks: stat.st_blocks as u64,
            atime: moment(stat.st_atime, stat.st_atime_nsec as u32),
            mtime: moment(stat.st_mtime, stat.st_mtime_nsec as u32),
            ctime: moment(stat.st_ctime, stat.st_ctime_nsec as u32),
        }
    }

    /// A directory that exists nowhere but here.
    pub fn of_directory(node: NodeId, permissions: u32, time: Moment) -> Self {
        Self {
            node,
            mode: FileType::Directory.as_raw_mode() | permissions,
            nlink: 2,
            uid: 0,
            gid: 0,
            device: (0, 0),
            size: 0,
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
        }
    }

    /// A virtual symlink to a target of this length.
    pub fn of_symlink(node: NodeId, length: usize, time: Moment) -> Self {
        let mode = FileType::Symlink.as_raw_mode() | 0o777;
        Self { mode, nlink: 1, size: length as u64, ..Self::of_directory(node, 0, time) }
    }

    /// The file type in the mode.
    pub fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }

    /// How long the kernel may rely on these attributes. Set-user-id and set-group-id bits can go away
    /// without the kernel noticing (see [`crate::sys::creds`]), so a file that has one is asked for anew.
    pub fn ttl(&self) -> Duration {
        let has_privilege = self.file_type() == FileType::RegularFile && self.mode & 0o6000 != 0;
        if has_privilege { Duration::ZERO } else { FOREVER }
    }
}

/// Attributes with the time for which they hold.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// The attributes.
    pub attr: Attr,
    /// How long the kernel may rely on them.
    pub ttl: Duration,
}

impl From<Attr> for Known {
    fn from(attr: Attr) -> Self {
        Self { attr, ttl: attr.ttl() }
    }
}

/// A name's answer: a node that the kernel will remember until it says `forget`.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// The node's attributes.
    pub known: Known,
    /// Tells apart files that had the same inode number one after the other.
    pub generation: u32,
    /// How long the kernel may rely on the name.
    pub ttl: Duration,
}

/// What a look-up finds.
#[derive(Debug, Clone, Copy)]
pub enum Found {
    /// A node.
    Entry(Entry),
    /// Nothing, which the kernel may remember for this time.
    Absent(Duration),
}

/// One line of a directory.
#[derive(Debug)]
pub struct Line<'a> {
    /// Its name.
    pub name: &'a [u8],
    /// The listing goes on behind this line from here.
    pub cookie: u64,
    /// Node id and file type.
    pub node: NodeId,
    /// Its type.
    pub file_type: FileType,
    /// The attributes, where they were asked for and could be had.
    pub entry: Option<Entry>,
}

/// Free space and inodes, as `statvfs` says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// In bytes; the unit of the three counts below.
    pub block_size: u32,
    /// All blocks.
    pub blocks: u64,
    /// Free blocks.
    pub free: u64,
    /// Free blocks for those who aren't root.
    pub available: u64,
    /// All inodes.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
}

/// What `setattr` is to change.
#[derive(Debug, Clone, Copy)]
pub struct Changes {
    /// New permissions.
    pub mode: Option<u32>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New length.
    pub size: Option<u64>,
    /// Access time.
    pub atime: SetTime,
    /// Modification time.
    pub mtime: SetTime,
}

/// What a `rename` is between.
#[derive(Debug, Clone)]
pub struct Rename {
    /// The directory that holds it.
    pub parent: NodeId,
    /// Its name.
    pub name: OsString,
    /// The directory that is to hold it.
    pub new_parent: NodeId,
    /// Its new name.
    pub new_name: OsString,
    /// `RENAME_NOREPLACE`, `RENAME_EXCHANGE`, `RENAME_WHITEOUT`.
    pub flags: rustix::fs::RenameFlags,
}

/// Refuses names that are not exactly one path component.
pub fn check_component(name: &std::ffi::OsStr) -> Result<()> {
    let bytes = name.as_encoded_bytes();
    let single = !bytes.is_empty() && bytes != b"." && bytes != b".." && !bytes.contains(&b'/');
    if single { Ok(()) } else { Err(rustix::io::Errno::INVAL.into()) }
}

/// The filesystem gid and the supplementary groups in `/proc/<pid>/status`.
fn groups(status: &str) -> impl Iterator<Item = u32> {
    let line = |name| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    let own = line("Gid:").split_whitespace().skip(3).take(1);
    own.chain(line("Groups:").split_whitespace()).filter_map(|group| group.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_before_1970_count_nanoseconds_forwards() {
        let before = UNIX_EPOCH - Duration::new(1, 200_000_000);
        assert_eq!(Moment::from(before), Moment { seconds: -2, nanoseconds: 800_000_000 });
        assert_eq!(
            Moment::from(UNIX_EPOCH - Duration::from_secs(3)),
            Moment { seconds: -3, nanoseconds: 0 }
        );
        assert_eq!(
            Moment::from(UNIX_EPOCH + Duration::new(5, 7)),
            Moment { seconds: 5, nanoseconds: 7 }
        );
    }

    #[test]
    fn an_unsaid_caller_is_who_proc_says_it_is() {
        let status = "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t0\t0\t0\t0\n";
        assert_eq!(filesystem_uid(status), Some(4));
        assert_eq!(filesystem_uid("Name:\tx"), None);
        let status = "Gid:\t1\t2\t3\t4\nFDSize:\t64\nGroups:\t7 8 \n";
        assert_eq!(groups(status).collect::<Vec<_>>(), [4, 7, 8]);
        let caller = |uid, pid| Caller { uid, pid, ..crate::fs::testing::ROOT };
        let own = std::process::id();
        assert!(caller(Caller::UNSAID, own).is_root(), "the tests run as root");
        assert!(!caller(Caller::UNSAID, 0).is_root());
        assert!(caller(0, 0).is_root() && !caller(1, own).is_root());
    }

    #[test]
    fn node_id_is_snapshot_above_inode() {
        let node = NodeId::new(SnapshotId(7), 12);
        assert_eq!((node.0, node.snapshot(), node.ino()), (7 << 32 | 12, Some(SnapshotId(7)), 12));
        assert!(NodeId::root_of(SnapshotId(7)).is_snapshot_root());
        assert!(!NodeId(1).is_snapshot_root());
    }
}
