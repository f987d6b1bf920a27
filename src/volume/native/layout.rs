//! Names and moves within the backend's directory. Knows no tree's content.

use std::collections::HashSet;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use rustix::fs::{
    AtFlags, CWD, Dir, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Uid, chmodat, fchmod, fchown,
    fsync, mkdirat, openat, openat2, renameat_with, statat,
};
use rustix::io::{Errno, Result};

use crate::tree;
use crate::types::{Volume, VolumeId, VolumeState};

/// The tree's root within a volume's directory.
const ROOT: &str = "fs";

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The directory and its two parts, open.
#[derive(Debug)]
pub(super) struct Layout {
    path: PathBuf,
    volumes: OwnedFd,
    tmp: OwnedFd,
}

/// Name in `tmp/` of a volume that is being made.
pub(super) fn making(id: VolumeId) -> String {
    id.to_string()
}

/// Name in `tmp/` of a volume that is being removed.
pub(super) fn trash(id: VolumeId) -> String {
    format!("trash-{id}")
}

impl Layout {
    /// Opens the directory, or makes it.
    pub(super) fn open(path: &Path) -> super::Result<Self> {
        let context = || format!("opening the directory {}", path.display());
        std::fs::create_dir_all(path).map_err(super::io(context))?;
        let open = || {
            let dir = openat(CWD, path, DIRECTORY & !OFlags::NOFOLLOW, Mode::empty())?;
            fchmod(&dir, Mode::RWXU)?;
            let volumes = open_or_make(dir.as_fd(), "volumes")?;
            let tmp = open_or_make(dir.as_fd(), "tmp")?;
            fsync(&dir)?;
            Ok::<_, Errno>(Self { path: path.to_owned(), volumes, tmp })
        };
        open().map_err(super::io(context))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn volumes(&self) -> BorrowedFd<'_> {
        self.volumes.as_fd()
    }

    pub(super) fn tmp(&self) -> BorrowedFd<'_> {
        self.tmp.as_fd()
    }

    /// Makes `tmp/<id>/fs`, which only root can enter yet.
    pub(super) fn make(&self, id: VolumeId) -> super::Result<OwnedFd> {
        let make = || {
            mkdirat(&self.tmp, making(id), Mode::RWXU)?;
            let dir = openat(&self.tmp, making(id), DIRECTORY, Mode::empty())?;
            mkdirat(&dir, ROOT, Mode::RWXU)?;
            openat(&dir, ROOT, DIRECTORY, Mode::empty())
        };
        make().map_err(super::io(|| format!("making volume {id}")))
    }

    /// Moves a complete tree into place. On failure it is still in `tmp/`.
    pub(super) fn publish(&self, id: VolumeId) -> Result<()> {
        let to = id.to_string();
        renameat_with(&self.tmp, making(id), &self.volumes, to, RenameFlags::NOREPLACE)
    }

    /// Makes an empty volume and its name durable.
    pub(super) fn sync_empty(&self, id: VolumeId) -> Result<()> {
        let dir = openat(&self.volumes, id.to_string(), DIRECTORY, Mode::empty())?;
        fsync(openat(&dir, ROOT, DIRECTORY, Mode::empty())?)?;
        fsync(&dir)?;
        fsync(&self.volumes)
    }

    /// The root of a volume's tree; `None`: there is no such volume.
    pub(super) fn open_root(&self, id: VolumeId) -> Result<Option<OwnedFd>> {
        match open_tree(self.volumes(), &id.to_string()) {
            Err(Errno::NOENT) => Ok(None),
            root => root.map(Some),
        }
    }

    /// Moves a volume to the trash. False: there is no such volume.
    pub(super) fn trash(&self, id: VolumeId) -> Result<bool> {
        let (from, to) = (id.to_string(), trash(id));
        match renameat_with(&self.volumes, from, &self.tmp, to, RenameFlags::NOREPLACE) {
            Err(Errno::NOENT) => Ok(false),
            moved => moved.map(|()| true),
        }
    }

    /// Removes something from `tmp/`; what is gone already is fine.
    pub(super) fn remove_tmp(&self, name: &str, cancel: &AtomicBool) -> tree::Result<()> {
        let name = CString::new(name).expect("names in tmp/ hold no NUL");
        tree::remove(self.tmp(), &name, cancel)
    }

    pub(super) fn tmp_names(&self) -> Result<Vec<String>> {
        names(self.tmp())
    }

    /// Names in `volumes/` that are no volume's.
    pub(super) fn foreign_names(&self) -> Result<Vec<String>> {
        let names = names(self.volumes())?;
        Ok(names.into_iter().filter(|name| parse(name).is_none()).collect())
    }

    /// Volumes that exist and that nobody knows.
    pub(super) fn stray(&self, known: &[Volume]) -> Result<Vec<VolumeId>> {
        let known: HashSet<_> = known.iter().map(|volume| volume.id).collect();
        let existing = self.existing()?.into_iter();
        Ok(existing.filter(|id| !known.contains(id)).collect())
    }

    /// Live volumes that don't exist.
    pub(super) fn lost(&self, known: &[Volume]) -> Result<Vec<VolumeId>> {
        let mut lost = Vec::new();
        for volume in known.iter().filter(|volume| volume.state == VolumeState::Live) {
            let root = format!("{}/{ROOT}", volume.id);
            match statat(&self.volumes, root, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => {}
                Err(Errno::NOENT | Errno::NOTDIR) => lost.push(volume.id),
                Err(errno) => return Err(errno),
            }
        }
        Ok(lost)
    }

    fn existing(&self) -> Result<Vec<VolumeId>> {
        let mut ids: Vec<_> =
            names(self.volumes())?.iter().filter_map(|name| parse(name)).collect();
        ids.sort_unstable();
        Ok(ids)
    }
}

/// An empty filesystem's root is 0755, root's, and inherits nothing from the host.
pub(super) fn finish_empty(root: &OwnedFd) -> Result<()> {
    tree::clear_acls(root.as_fd())?;
    fchown(root, Some(Uid::ROOT), Some(Gid::ROOT))?;
    fchmod(root, Mode::from_raw_mode(0o755))
}

fn open_or_make(dir: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    match mkdirat(dir, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    chmodat(dir, name, Mode::RWXU, AtFlags::empty())?;
    openat(dir, name, DIRECTORY, Mode::empty())
}

fn open_tree(volumes: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    openat2(volumes, format!("{name}/{ROOT}"), DIRECTORY, Mode::empty(), beneath)
}

/// The id, if it is written as we write it.
fn parse(name: &str) -> Option<VolumeId> {
    let id = VolumeId(name.parse().ok()?);
    (id.to_string() == name).then_some(id)
}

fn names(dir: BorrowedFd<'_>) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        match entry.file_name().to_string_lossy().into_owned() {
            name if name == "." || name == ".." => {}
            name => names.push(name),
        }
    }
    Ok(names)
}
