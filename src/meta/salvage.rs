//! A store that doesn't open, or can't be read to its end: what can be read of it goes into a new
//! one.
//!
//! - A damaged block of a table costs the rows in it. Rows before and behind it are read by going
//!   through the table from both ends; between two damaged blocks, those that other column families
//!   name. A record that is lost all the same is made again from its index rows
//!   ([`Store::mend`]).
//! - A lost or damaged manifest is made again by RocksDB from the tables' own descriptions; rows
//!   that only the log had are then replayed from it.
//! - A log cut short is no damage that shows: the last changes are not there. Volumes that they
//!   named are found as unnamed, and kept.

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rocksdb::{DB, DBRecoveryMode, IteratorMode, Options, ReadOptions};

use super::backup::{LEAP, beside, copy_store, exchange};
use super::columns::{Column, Ids, Kinds, Snapshots, System, Volumes};
use super::error::{Error, Result};
use super::open::{is_damaged_log, lock, make_dir};
use super::verify;
use super::{Batch, Store};
use crate::types::{Finding, VolumeId};

/// Rows written at once.
const PAGE: usize = 1000;

/// What came of a store that was closed when it was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// What was done.
    pub mended: Vec<Finding>,
    /// Where the former store is now, if it was replaced.
    pub set_aside: Option<PathBuf>,
}

/// Checks the store in `dir`, which nobody has open, without changing it.
pub fn check_closed(dir: &Path) -> Result<Vec<Finding>> {
    let _lock = lock(dir)?;
    let db = match open_read_only(dir) {
        Ok(db) => db,
        Err(source) => return Ok(vec![unopenable(dir, &source)]),
    };
    let missing: Vec<_> =
        Column::ALL.into_iter().filter(|column| db.cf_handle(column.name()).is_none()).collect();
    if !missing.is_empty() {
        let names: Vec<_> = missing.into_iter().map(Column::name).collect();
        return Ok(vec![Finding::manual(
            format!("the metadata store {}", dir.display()),
            format!("it lacks the column families {}: an older thinfs wrote it", names.join(", ")),
            "start the daemon, which brings it to the present schema, or run `thinfs check \
             --offline --repair`",
        )]);
    }
    let rows = verify::look(&db)?.into_iter().map(|damage| damage.finding);
    Ok(damaged_log(dir)?.into_iter().chain(rows).collect())
}

/// A log that is damaged before its end; one that is cut short is what a power cut leaves.
fn damaged_log(dir: &Path) -> Result<Option<Finding>> {
    let mut strict = Options::default();
    strict.set_wal_recovery_mode(DBRecoveryMode::AbsoluteConsistency);
    let failed = |source| Error::Open { dir: dir.to_owned(), source };
    let columns = DB::list_cf(&strict, dir).map_err(failed)?;
    match DB::open_cf_for_read_only(&strict, dir, columns, false) {
        Err(source) if is_damaged_log(&source) => Ok(Some(Finding::manual(
            "the log of the metadata store",
            format!("it is damaged: {source}; changes made after the damage are lost"),
            "the next start keeps volumes that no record names; see them with `thinfs check`, or \
             bring back a backup with `thinfs restore`",
        ))),
        Ok(_) | Err(_) => Ok(None),
    }
}

/// Mends the store in `dir`, which nobody has open; one that can't be read is replaced by what can
/// be saved of it.
pub fn repair_closed(dir: &Path) -> Result<Salvaged> {
    let readable = match Store::open(dir) {
        Ok(store) if verify::is_readable(&store.db)? => Some(store),
        Ok(_) => None,
        Err(error) if is_damage(&error) => None,
        Err(other) => return Err(other),
    };
    match readable {
        Some(store) => Ok(Salvaged { mended: store.mend()?, set_aside: None }),
        None => salvage(dir),
    }
}

/// Whether the store doesn't open for what stands in it, also where a migration came by it.
fn is_damage(error: &Error) -> bool {
    match error {
        Error::Headless(_) | Error::Open { .. } | Error::Read { .. } | Error::Corrupt { .. } => {
            true
        }
        Error::Migration { source, .. } => is_damage(source),
        _ => false,
    }
}

/// 1. copy the store, and have RocksDB repair the copy if it doesn't open;
/// 2. copy all rows that can be read into a new store, and mend that;
/// 3. exchange it for the damaged one, which is set aside.
fn salvage(dir: &Path) -> Result<Salvaged> {
    let _lock = lock(dir)?;
    let (copy, new) = (beside(dir, "damaged-copy"), beside(dir, "salvaged"));
    copy_store(dir, &copy).or_else(|error| match error {
        Error::NoBackup(_) => copy_files(dir, &copy), // CURRENT itself is lost
        other => Err(other),
    })?;
    let mut mended = Vec::new();
    let old = match open_read_only(&copy) {
        Ok(db) => db,
        Err(source) => {
            mended.push(unopenable(dir, &source));
            let failed = |source| Error::Open { dir: copy.clone(), source };
            DB::repair(&Options::default(), &copy).map_err(failed)?;
            open_read_only(&copy).map_err(failed)?
        }
    };
    remove(&new)?;
    let store = Store::open(&new)?;
    let rows = carry(&old, &store)?;
    mended.push(Finding::mendable(
        format!("the metadata store {}", dir.display()),
        "it cannot be read as a whole",
        format!("saved {rows} rows into a new store"),
    ));
    mended.extend(store.mend()?);
    drop((store, old));
    remove(&copy)?;
    let set_aside = exchange(dir, &new, "before-salvage")?;
    Ok(Salvaged { mended, set_aside })
}

fn unopenable(dir: &Path, source: &rocksdb::Error) -> Finding {
    Finding::manual(
        format!("the metadata store {}", dir.display()),
        format!("RocksDB cannot open it: {source}"),
        "`thinfs check --offline --repair` saves what can be read, `thinfs restore` brings back a \
         backup",
    )
}

fn open_read_only(dir: &Path) -> std::result::Result<DB, rocksdb::Error> {
    let options = Options::default();
    let columns = DB::list_cf(&options, dir)?;
    DB::open_cf_for_read_only(&options, dir, columns, false)
}

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    // Any word does: RocksDB's repair writes a new one.
    let marker = from.join("CURRENT");
    let failed = |source| Error::Io { what: format!("writing {}", marker.display()), source };
    fs::write(&marker, "MANIFEST-000000\n").map_err(failed)?;
    copy_store(from, to)
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Io { what: format!("removing {}", dir.display()), source })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

type Row = (Box<[u8]>, Box<[u8]>);

/// Copies what can be read; gives the number of rows.
fn carry(old: &DB, new: &Store) -> Result<usize> {
    let mut rows = 0;
    let mut named = BTreeSet::new();
    // The indexes first: they tell which records to ask for.
    let order = [Column::Ids, Column::Kinds, Column::Snapshots, Column::Volumes];
    let others = Column::ALL.into_iter().filter(|column| !order.contains(column));
    for column in order.into_iter().chain(others) {
        let mut found = from_both_ends(old, column);
        found.extend(by_name(old, column, &named));
        for (key, value) in &found {
            name_records(column, key, value, &mut named);
        }
        let kept: Vec<_> = found.into_iter().filter(|(key, _)| is_carried(column, key)).collect();
        for page in kept.chunks(PAGE) {
            let mut batch = Batch::default();
            page.iter().for_each(|(key, value)| batch.put(column, key, value));
            new.write(batch)?;
        }
        rows += kept.len();
    }
    let mut batch = Batch::default();
    let reserved = super::rows::get(&new.db, Column::System, System::SNAPSHOT_IDS, String::new)?;
    let end = reserved.and_then(|record| System::decode_snapshot_ids(&record).ok()).unwrap_or(1);
    let end = verify::greatest_id(&new.db)?.max(end) + LEAP;
    batch.put(Column::System, System::SNAPSHOT_IDS, System::encode_snapshot_ids(end));
    batch.keep_unnamed("the store was damaged and has been salvaged");
    new.write(batch)?;
    Ok(rows)
}

/// The new store has a schema of its own.
fn is_carried(column: Column, key: &[u8]) -> bool {
    !(column == Column::System && key == System::SCHEMA)
}

/// Rows up to the first damage, and back to the last.
fn from_both_ends(old: &DB, column: Column) -> Vec<Row> {
    let Some(handle) = old.cf_handle(column.name()) else { return Vec::new() };
    let mut rows: Vec<Row> = Vec::new();
    for from in [IteratorMode::Start, IteratorMode::End] {
        for row in old.iterator_cf_opt(handle, ReadOptions::default(), from) {
            match row {
                Ok(row) => rows.push(row),
                Err(error) => {
                    tracing::warn!(column = column.name(), %error, "a damaged block");
                    break;
                }
            }
        }
    }
    rows.sort_unstable();
    rows.dedup();
    rows
}

/// Records that other column families name.
fn by_name(old: &DB, column: Column, named: &BTreeSet<(u8, Vec<u8>)>) -> Vec<Row> {
    let Some(handle) = old.cf_handle(column.name()) else { return Vec::new() };
    let wanted = named.iter().filter(|(of, _)| *of == tag(column));
    wanted
        .filter_map(|(_, key)| {
            let value = old.get_cf(handle, key).ok()??;
            Some((key.clone().into_boxed_slice(), value.into_boxed_slice()))
        })
        .collect()
}

fn tag(column: Column) -> u8 {
    column as u8
}

/// Notes which records a row names.
fn name_records(column: Column, key: &[u8], value: &[u8], named: &mut BTreeSet<(u8, Vec<u8>)>) {
    match column {
        Column::Ids => {
            named.insert((tag(Column::Snapshots), value.to_vec()));
            named.insert((tag(Column::Volumes), key.to_vec()));
        }
        Column::Kinds => {
            if let Ok((ns, _, name)) = Kinds::decode_row_key(key) {
                named.insert((tag(Column::Snapshots), Snapshots::row_key(&ns, &name)));
            }
            if let Ok(id) = Kinds::decode(value) {
                named.insert((tag(Column::Ids), Ids::row_key(id).to_vec()));
                named.insert((tag(Column::Volumes), Volumes::row_key(VolumeId::of(id)).to_vec()));
            }
        }
        _ => {}
    }
}

impl Store {
    /// Calls `visit` with each readable volume's record of a store that nobody has open.
    pub fn volumes_of_closed(
        dir: &Path,
        visit: &mut dyn FnMut(crate::types::Volume) -> ControlFlow<()>,
    ) -> Result<()> {
        make_dir(dir)?;
        let _lock = lock(dir)?;
        let failed = |source| Error::Open { dir: dir.to_owned(), source };
        let db = open_read_only(dir).map_err(failed)?;
        let Some(handle) = db.cf_handle(Column::Volumes.name()) else { return Ok(()) };
        for row in db.iterator_cf(handle, IteratorMode::Start) {
            let (key, record) = row.map_err(failed)?;
            let volume = Volumes::decode_row_key(&key).and_then(|id| Volumes::decode(id, &record));
            if let Ok(volume) = volume
                && visit(volume).is_break()
            {
                break;
            }
        }
        Ok(())
    }
}
