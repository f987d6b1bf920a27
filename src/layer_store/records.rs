//! Tar-split records: one file a layer, named by the id of the layer's snapshot.
//!
//! They are megabytes long and written once, which a directory of files serves better than rows of
//! a store that rewrites what it holds. An id is never used twice, so a file can't be taken for
//! another layer's; a file whose layer isn't in the store is garbage by definition.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::error::{Error, Result};
use crate::types::SnapshotId;

/// The directory of the records.
#[derive(Debug)]
pub(super) struct Records {
    dir: PathBuf,
}

impl Records {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    fn path(&self, id: SnapshotId) -> PathBuf {
        self.dir.join(format!("{id}.split"))
    }

    /// A new record, to be written and then given to [`Records::keep`].
    pub(super) fn create(&self, id: SnapshotId) -> Result<File> {
        let path = self.path(id);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        options.open(&path).map_err(failed("making the record", &path))
    }

    /// Makes a written record durable, name and content.
    pub(super) fn keep(&self, id: SnapshotId, record: &File) -> Result<()> {
        let sync = || {
            record.sync_all()?;
            File::open(&self.dir)?.sync_all()
        };
        sync().map_err(failed("flushing the record", &self.path(id)))
    }

    /// The record of a layer.
    pub(super) fn open(&self, id: SnapshotId) -> Result<File> {
        let path = self.path(id);
        File::open(&path).map_err(failed("opening the record", &path))
    }

    /// Length of a layer's record.
    pub(super) fn size(&self, id: SnapshotId) -> Option<u64> {
        fs::metadata(self.path(id)).ok().map(|metadata| metadata.len())
    }

    /// Removes a record if there is one.
    pub(super) fn remove(&self, id: SnapshotId) -> Result<()> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("removing the record", &path)(error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Removes every file that isn't the record of one of these; says how many.
    pub(super) fn retain(&self, ids: &HashSet<SnapshotId>) -> Result<usize> {
        let wanted: HashSet<PathBuf> = ids.iter().map(|id| self.path(*id)).collect();
        let mut removed = 0;
        let entries = fs::read_dir(&self.dir).map_err(failed("reading", &self.dir))?;
        for entry in entries {
            let entry = entry.map_err(failed("reading", &self.dir))?;
            let (path, kind) = (entry.path(), entry.file_type());
            if kind.is_ok_and(|kind| kind.is_file()) && !wanted.contains(&path) {
                fs::remove_file(&path).map_err(failed("removing", &path))?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Where they are.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file without a name, for what must be read twice.
    pub(super) fn scratch(&self) -> Result<File> {
        tempfile_in(&self.dir).map_err(failed("making a scratch file in", &self.dir))
    }

    /// An empty directory, which an empty parent is compared as.
    pub(super) fn empty(&self) -> Result<File> {
        let path = self.dir.join("empty");
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(failed("making", &path)(error))
            }
            Ok(()) | Err(_) => File::open(&path).map_err(failed("opening", &path)),
        }
    }
}

fn tempfile_in(dir: &Path) -> io::Result<File> {
    let flag = i32::try_from(rustix::fs::OFlags::TMPFILE.bits()).map_err(io::Error::other)?;
    OpenOptions::new().read(true).write(true).custom_flags(flag).mode(0o600).open(dir)
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { doing, path, source }
}
