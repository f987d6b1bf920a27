//! Checking the store against itself, and mending it. Reads everything; for `thinfs check` and the
//! stress test.
//!
//! What can be mended is mended without loss: an index row is made or dropped as its record wants
//! it; a record that is gone or unreadable is made again from the index rows that name it, without
//! its labels and times; a volume that lost its snapshot gets a new one, in the namespace
//! [`FOUND`]. A volume that a record names is never destroyed.

mod indexes;
mod leases;
mod rebuild;
mod snapshots;
mod volumes;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use rocksdb::DB;

use super::batch::Batch;
use super::columns::{Column, System, Volumes};
use super::error::Result;
use super::read::successor;
use super::rows::Moment;
use super::{Error, Store};
use crate::crashpoint::Step;
use crate::types::{
    Backing, Event, Finding, Namespace, Snapshot, SnapshotId, SnapshotKey, Topic, Volume, VolumeId,
};

/// Namespace of the snapshots that are made for volumes which lost theirs.
pub const FOUND: &str = "lost-and-found";

/// Remedy of a committed snapshot without usage: the layer above can, and does.
pub const MEASURE: &str = "measure it";

/// Rows looked at between two looks for more.
const PAGE: usize = 1000;
/// Mending one thing may show the next: a record made again may lack its parent's.
const ROUNDS: usize = 4;

/// A finding, and the changes that mend it.
pub(super) struct Damage {
    pub(super) finding: Finding,
    pub(super) mend: Batch,
}

impl Store {
    /// Checks every row against every other; none found if all is sound.
    ///
    /// - each snapshot has its rows in `ids`, `kinds`, `children`, `labels`, `references` and `digests`,
    ///   and no row there is without its snapshot;
    /// - a parent exists and is committed; a committed snapshot has its usage recorded;
    /// - ids are below the reserved end;
    /// - each snapshot's volume exists and is no tombstone: its own, or for a view its parent's;
    /// - a lease and what it holds know of each other, and both exist;
    /// - each live or lost volume belongs to the snapshot with its id, each tombstone to none.
    pub fn verify(&self) -> Result<Vec<Finding>> {
        Ok(look(&self.db)?.into_iter().map(|damage| damage.finding).collect())
    }

    /// Mends what can be; tells what was done, in one event each. Nobody else may write meanwhile.
    ///
    /// After a crash, some of it is done and all of it can be done again.
    pub fn mend(&self) -> Result<Vec<Finding>> {
        let mut mended = Vec::new();
        for _ in 0..ROUNDS {
            let mut batch = Batch::of(Step::StoreRepair);
            let before = mended.len();
            for damage in look(&self.db)?.into_iter().filter(|damage| damage.finding.mendable) {
                let finding = &damage.finding;
                let event = Event::new(Topic::STORE_REPAIR);
                batch.publish(event.with("object", &finding.object).with("done", &finding.remedy));
                batch.append(damage.mend);
                mended.push(damage.finding);
            }
            if mended.len() == before {
                break;
            }
            self.write(batch)?;
        }
        // Rows were put and deleted one by one.
        self.counted.recount(&self.db);
        Ok(mended)
    }
}

/// Whether RocksDB can read all of it.
pub(super) fn is_readable(db: &DB) -> Result<bool> {
    Ok(unreadable(&Moment::now(db))?.is_empty())
}

/// The greatest id that is in use.
pub(super) fn greatest_id(db: &DB) -> Result<u64> {
    let mut check = Check::new(db);
    check.read_volumes()?;
    check.greatest_id().map(u64::from)
}

pub(super) fn look(db: &DB) -> Result<Vec<Damage>> {
    let moment = Moment::now(db);
    let unreadable = unreadable(&moment)?;
    if !unreadable.is_empty() {
        return Ok(unreadable); // all else would only follow from it
    }
    drop(moment);
    let mut check = Check::new(db);
    check.read_volumes()?;
    check.counter()?;
    check.snapshots()?;
    check.ids()?;
    check.indexes()?;
    check.leases()?;
    check.layers()?;
    check.volumes()?;
    Ok(check.found)
}

/// Column families that RocksDB can't read to their ends.
fn unreadable(moment: &Moment<'_>) -> Result<Vec<Damage>> {
    let mut found = Vec::new();
    for column in Column::ALL {
        match moment.scan(column, b"", None, &mut |_, _| Ok(ControlFlow::Continue(()))) {
            Ok(()) => {}
            Err(Error::Read { source, .. }) => found.push(Damage {
                finding: Finding::manual(
                    format!("column family {}", column.name()),
                    format!("RocksDB cannot read it: {source}"),
                    "stop the daemon, then run `thinfs check --offline --repair`, which saves what \
                     can be read, or `thinfs restore` with a backup",
                ),
                mend: Batch::default(),
            }),
            Err(other) => return Err(other),
        }
    }
    Ok(found)
}

struct Check<'a> {
    moment: Moment<'a>,
    /// Those that could be read.
    volumes: BTreeMap<VolumeId, Volume>,
    /// Records made again from index rows, not in the store yet.
    made: BTreeMap<(Namespace, SnapshotKey), Snapshot>,
    /// Index rows that are made anew: whatever stands there now is not to be dropped.
    remade: BTreeSet<(&'static str, Vec<u8>)>,
    found: Vec<Damage>,
}

impl<'a> Check<'a> {
    fn new(db: &'a DB) -> Self {
        let moment = Moment::now(db);
        Self {
            moment,
            volumes: BTreeMap::new(),
            made: BTreeMap::new(),
            remade: BTreeSet::new(),
            found: vec![],
        }
    }
}

impl Check<'_> {
    fn mendable(&mut self, object: String, problem: String, remedy: &str, mend: Batch) {
        self.found.push(Damage { finding: Finding::mendable(object, problem, remedy), mend });
    }

    fn manual(&mut self, object: String, problem: String, remedy: &str) {
        let finding = Finding::manual(object, problem, remedy);
        self.found.push(Damage { finding, mend: Batch::default() });
    }

    /// The record of a snapshot, as it stands or as it was made again; none too if it can't be
    /// read.
    fn record(&self, ns: &Namespace, key: &SnapshotKey) -> Result<Option<Snapshot>> {
        if let Some(made) = self.made.get(&(ns.clone(), key.clone())) {
            return Ok(Some(made.clone()));
        }
        match super::read::snapshot_at(&self.moment, ns, key) {
            Err(Error::Corrupt { .. }) => Ok(None),
            other => other,
        }
    }

    /// Whether the store is of the native backend: then a volume's record can be made from its id.
    fn is_native(&self) -> Result<bool> {
        let thin = |volume: &Volume| volume.backing != Backing::Native;
        Ok(self.moment.get(Column::System, System::POOL)?.is_none()
            && !self.volumes.values().any(thin))
    }

    /// Layers, read-write layers and images: a person decides what becomes of them.
    fn layers(&mut self) -> Result<()> {
        let mut lines = Vec::new();
        match super::verify_layers::verify(&self.moment, &mut lines) {
            Err(Error::Corrupt { what, source }) => lines.push(format!("{what}: {source}")),
            other => other?,
        }
        for line in lines {
            let remedy =
                "remove what it names (`thinfs layer rm`, `image rm`, `rw rm`) and import it again";
            self.manual("the layer store".to_owned(), line, remedy);
        }
        Ok(())
    }

    /// The counter of snapshot ids lies above all ids that there are.
    fn counter(&mut self) -> Result<()> {
        let record = self.moment.get(Column::System, System::SNAPSHOT_IDS)?;
        let reserved_end = record.as_deref().map(System::decode_snapshot_ids).and_then(|r| r.ok());
        let greatest = self.greatest_id()?;
        if reserved_end.is_some_and(|end| u64::from(greatest) < end) {
            return Ok(());
        }
        let mut mend = Batch::default();
        let end = u64::from(greatest) + 1;
        mend.put(Column::System, System::SNAPSHOT_IDS, System::encode_snapshot_ids(end));
        let problem = match reserved_end {
            None => "it is missing or unreadable".to_owned(),
            Some(end) => format!("it says {end}, but id {greatest} was never reserved"),
        };
        self.mendable("the snapshot id counter".to_owned(), problem, "set it above all ids", mend);
        Ok(())
    }

    fn greatest_id(&self) -> Result<u32> {
        let mut greatest = self.volumes.keys().next_back().map_or(0, |id| id.0);
        self.moment.scan(Column::Ids, b"", None, &mut |row_key, _| {
            if let Ok(id) = super::columns::Ids::decode_row_key(row_key) {
                greatest = greatest.max(id.0);
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(greatest)
    }

    fn read_volumes(&mut self) -> Result<()> {
        self.each(Column::Volumes, |check, row_key, record| {
            let id = match Volumes::decode_row_key(row_key) {
                Ok(id) => id,
                Err(error) => return check.bad_row(Column::Volumes, row_key, &error.to_string()),
            };
            match Volumes::decode(id, record) {
                Ok(volume) => {
                    check.volumes.insert(id, volume);
                    Ok(())
                }
                Err(error) => check.bad_volume(id, &error.to_string()),
            }
        })
    }

    /// A row whose key can't be read names nothing.
    fn bad_row(&mut self, column: Column, row_key: &[u8], why: &str) -> Result<()> {
        let mut mend = Batch::default();
        mend.delete(column, row_key);
        let object = format!("a row of {}", column.name());
        self.mendable(object, why.to_owned(), "drop the row: it names nothing", mend);
        Ok(())
    }

    /// Calls `check` with each row of a column family.
    fn each(
        &mut self,
        column: Column,
        mut check: impl FnMut(&mut Self, &[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut start = Vec::new();
        loop {
            let mut rows = Vec::new();
            self.moment.scan(column, &start, None, &mut |row_key, value| {
                rows.push((row_key.to_vec(), value.to_vec()));
                let full = rows.len() == PAGE;
                Ok(if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            })?;
            let Some((last, _)) = rows.last() else { return Ok(()) };
            start = successor(last.clone());
            rows.iter().try_for_each(|(row_key, value)| check(self, row_key, value))?;
        }
    }
}

/// How a snapshot is called in a finding.
fn snapshot_name(ns: &Namespace, key: &SnapshotKey) -> String {
    format!("snapshot {ns}/{key}")
}

/// The id of the snapshot that a volume was made for.
fn owner(volume: VolumeId) -> SnapshotId {
    SnapshotId(volume.0)
}
