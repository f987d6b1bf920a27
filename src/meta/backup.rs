//! Backup and restore of the store.
//!
//! A backup is RocksDB's checkpoint: a store of its own, as of one moment, made while the daemon
//! serves. It holds no snapshot's files.
//!
//! Restoring takes the store back while the volumes stay as they are, so three things are seen to:
//!
//! - **Nothing is destroyed.** Volumes made since the backup are named by no record, which else
//!   means garbage. The restored store says that such volumes are to be kept
//!   ([`Store::keeping`]) until `check --repair` lets go of them.
//! - **No id is given twice.** The counter goes on where the replaced store's stands; where that
//!   can't be read, far beyond the backup's.
//! - **The pool is believed.** Its record is that of the replaced store where that can be read: it
//!   tells of the pool as it is.
//!
//! The replaced store is set aside, not removed: restoring it in its turn undoes it all. (Moving the directories by
//! hand would bring back an older record of the pool, which the next start refuses.)

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rocksdb::checkpoint::Checkpoint;
use rocksdb::{DB, IteratorMode, Options};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::columns::{Column, Events, System};
use super::error::{Error, Result};
use super::open::{holds_rows, lock, make_dir};
use super::{Batch, Store};
use crate::types::{Event, Pool, Topic};

/// How far numbers leap where the replaced store can't say how far it got: more than it can have
/// given since any backup worth restoring.
pub(super) const LEAP: u64 = 1 << 20;

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Where the replaced store is now; `None`: there was none.
    pub set_aside: Option<PathBuf>,
    /// Whether the replaced store could be read for what it knew of ids and the pool.
    pub replaced_was_readable: bool,
    /// What is wrong with the restored store, if anything.
    pub findings: usize,
}

/// What the replaced store knows that the backup can't.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Newer {
    reserved_end: u64,
    last_event: u64,
    pool: Option<Pool>,
}

impl Store {
    /// Writes the store as of now into `dir`, which must not exist yet. When it returns, the copy
    /// is on stable storage.
    pub fn backup(&self, dir: &Path) -> Result<()> {
        let failed = |source| Error::Backup { dir: dir.to_owned(), source };
        Checkpoint::new(&self.db).and_then(|now| now.create_checkpoint(dir)).map_err(failed)
    }

    /// Why volumes that nobody names are kept, if they are.
    pub fn keeping(&self) -> Result<Option<String>> {
        let what = || "the note on unnamed volumes".to_owned();
        super::rows::get(&self.db, Column::System, System::KEEPING, what)?
            .map(|record| {
                System::decode_keeping(&record).map_err(|e| super::read::corrupt(what(), e))
            })
            .transpose()
    }
}

/// Replaces the store in `dir` by a copy of the backup in `from`. Nobody may use the store
/// meanwhile: that is [`Error::InUse`].
///
/// After a crash either store is in place, whole; what else lies beside it may be removed.
///
/// 1. copy the backup, open the copy and bring it to the present schema, check it;
/// 2. in one batch: ids go on, the pool's record is the newer one, unnamed volumes are kept;
/// 3. exchange the two directories, in one step.
pub fn restore(dir: &Path, from: &Path) -> Result<Restored> {
    make_dir(dir)?;
    let _lock = lock(dir)?;
    let newer = newer_of(dir);
    let copy = beside(dir, "restoring");
    copy_store(from, &copy)?;
    let findings = {
        let store = Store::open(&copy)?;
        store.write(carry_over(&store, newer.as_ref())?)?;
        store.verify()?.len()
    };
    let set_aside = exchange(dir, &copy, "before-restore")?;
    Ok(Restored { set_aside, replaced_was_readable: newer.is_some(), findings })
}

/// `meta` → `meta.<suffix>`
pub(super) fn beside(dir: &Path, suffix: &str) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(suffix);
    dir.with_file_name(name)
}

/// A store that doesn't open, or isn't there, knows nothing.
fn newer_of(dir: &Path) -> Option<Newer> {
    let options = Options::default();
    let columns = DB::list_cf(&options, dir).ok()?;
    let db = DB::open_cf_for_read_only(&options, dir, &columns, false).ok()?;
    let system = db.cf_handle(Column::System.name())?;
    let reserved = db.get_cf(system, System::SNAPSHOT_IDS).ok()??;
    let pool = db.get_cf(system, System::POOL).ok()?;
    let last_event = match db.cf_handle(Column::Events.name()) {
        None => 0,
        Some(events) => match db.iterator_cf(events, IteratorMode::End).next() {
            None => 0,
            Some(row) => Events::decode_row_key(&row.ok()?.0).ok()?,
        },
    };
    Some(Newer {
        reserved_end: System::decode_snapshot_ids(&reserved).ok()?,
        last_event,
        pool: pool.map(|record| System::decode_pool(&record)).transpose().ok()?,
    })
}

fn carry_over(store: &Store, newer: Option<&Newer>) -> Result<Batch> {
    let reserved_end = store.ids.lock().reserved_end();
    let last_event = store.event_bounds().last;
    let (reserved_end, last_event) = match newer {
        Some(newer) => (newer.reserved_end.max(reserved_end), newer.last_event.max(last_event)),
        None => (reserved_end + LEAP, last_event + LEAP),
    };
    let mut batch = Batch::default();
    batch.put(Column::System, System::SNAPSHOT_IDS, System::encode_snapshot_ids(reserved_end));
    if let Some(pool) = newer.and_then(|newer| newer.pool.as_ref()) {
        batch.put_pool(pool);
    }
    batch.keep_unnamed("the store was restored from a backup");
    // Numbered here: readers are told of the leap, and nothing else is written to this copy.
    let event = Event::new(Topic::STORE_RESTORE);
    batch.put(Column::Events, Events::row_key(last_event + 2), Events::encode(event));
    Ok(batch)
}

/// RocksDB's logs and locks stay behind.
pub(super) fn copy_store(from: &Path, to: &Path) -> Result<()> {
    let failed = |what: String| move |source| Error::Io { what, source };
    if !from.join("CURRENT").exists() {
        return Err(Error::NoBackup(from.to_owned()));
    }
    match fs::remove_dir_all(to) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(failed(format!("removing {}", to.display()))(error));
        }
        Ok(()) | Err(_) => make_dir(to)?,
    }
    let copying = || format!("copying {} to {}", from.display(), to.display());
    for entry in fs::read_dir(from).map_err(failed(copying()))? {
        let entry = entry.map_err(failed(copying()))?;
        let name = entry.file_name();
        let skipped =
            name.to_string_lossy().starts_with("LOG") || name == "LOCK" || name == "thinfs.lock";
        if !skipped {
            let copied = fs::copy(entry.path(), to.join(&name))
                .and_then(|_| File::open(to.join(&name))?.sync_all());
            copied.map_err(failed(copying()))?;
        }
    }
    File::open(to).and_then(|dir| dir.sync_all()).map_err(failed(copying()))
}

/// The new store takes the place of the old one, which gets a name of its own.
pub(super) fn exchange(dir: &Path, new: &Path, suffix: &str) -> Result<Option<PathBuf>> {
    let failed = |source: std::io::Error| Error::Io {
        what: format!("putting {} in the place of {}", new.display(), dir.display()),
        source,
    };
    renameat_with(CWD, new, CWD, dir, RenameFlags::EXCHANGE).map_err(|e| failed(e.into()))?;
    // `new` is the old store from here on.
    let sync = || match dir.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    };
    sync().map_err(failed)?;
    if !new.join("CURRENT").exists() && !holds_rows(new) {
        fs::remove_dir_all(new).map_err(failed)?;
        return Ok(None);
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    // Two within a second get names of their own.
    let named = |at: Duration| beside(dir, &format!("{suffix}-{}", at.as_secs()));
    let mut at = since;
    while named(at).exists() {
        at += Duration::from_secs(1);
    }
    let aside = named(at);
    fs::rename(new, &aside).and_then(|()| sync()).map_err(failed)?;
    Ok(Some(aside))
}
