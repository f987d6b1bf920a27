//! The metadata store: which snapshots exist, and which volumes. The only module that names
//! RocksDB.
//!
//! It knows no device, no directory and no rule: what may be changed is for [`crate::snapshot`] to
//! say.
//!
//! # Schema
//!
//! ```text
//! system                                    facts about the store itself
//! ├── schema             → version          readable by every thinfs, old or new
//! ├── snapshot_ids       → reserved end     ids below it may have been handed out
//! ├── pool               → Pool             transaction id, reserved thin ids, templates, faulty ids
//! └── keeping            → reason           volumes that nobody names are kept for now
//! snapshots                                 the snapshots
//! └── namespace \0 key   → Snapshot         id, kind, parent, labels, created, updated, usage, volume
//! children                                  index: snapshots by parent
//! └── namespace \0 parent \0 child → ""
//! kinds                                     index: snapshots by kind, for listing page by page
//! └── namespace \0 kind \0 key → id
//! ids                                       index: snapshots by id
//! └── id (u32 BE)        → namespace \0 key
//! digests                                   index: keys too long for a file name by their SHA-256
//! └── namespace \0 sha256(key) → key
//! labels                                    index: snapshots by label, and by label and value
//! └── namespace \0 hash(label) hash(value) key → ""
//! references                                index: snapshots by what their labels refer to, or name as their keeper
//! └── namespace \0 kind \0 id \0 way key → ""
//! volumes                                   live and lost volumes, and tombstones
//! └── id (u32 BE)        → Volume           state, origin, size, backing
//! events                                    what happened, in order; the newest 65,536
//! └── number (u64 BE)    → Event            topic, namespace, key, details, time
//! namespaces                                namespaces that were made or labelled as such
//! └── namespace          → Namespace        created, labels
//! leases                                    what holds resources for a while
//! └── namespace \0 lease → Lease            created, labels
//! lease_resources                           what a lease holds
//! └── namespace \0 lease \0 kind \0 id → ""
//! holders                                   index: leases by what they hold
//! └── namespace \0 kind \0 id \0 lease → ""
//! collectable                               index: snapshots made under a lease
//! └── namespace \0 key   → ""
//! layers                                    OCI layers; their tar-split records are files
//! └── chain id (32 B)    → Layer            diff id, parent, snapshot, depth, sizes, created
//! layer_refs                                who keeps a layer
//! └── chain id \0 holder → count            user, image, read-write layer, child layer, import
//! rw_layers
//! └── name               → RwLayer          parent, snapshots, label, options, references
//! images
//! └── name               → Image            top layer, configuration
//! ```
//!
//! Each line is a type in `columns/`, encode beside decode. Records are versioned prost messages of
//! their own. No key and no namespace holds a NUL. A record and its index rows change in one batch
//! only ([`Batch`]), so they can't disagree; [`Store::verify`] checks that they don't.
//!
//! # What is assumed of disk and fsync
//!
//! fdatasync that returned success made the log's bytes durable; one that failed may have made any
//! part of them durable or none, and a second try proves nothing. So the store is fail-stop: after
//! a failed write it refuses all others until it is opened anew ([`Store::write`]). A log torn by a
//! power cut is replayed up to the last whole record.
//!
//! # Who writes
//!
//! Callers encode their rows themselves ([`Batch`], `encoded.rs`), `committer.rs` gathers them into groups (`group.rs`),
//! and `writer.rs` has RocksDB write a group, or refuses once a write has failed.
//!
//! # Versions
//!
//! `migrations.rs` holds the list of steps from schema to schema. Opening a store of a newer schema
//! is an error that changes nothing.

mod among;
mod backup;
mod batch;
mod columns;
mod committer;
mod counts;
mod damaged_log;
mod encoded;
mod error;
mod flag;
mod group;
mod layers;
mod leases;
mod migrations;
mod namespaces;
mod open;
mod read;
mod rows;
mod salvage;
mod tail;
#[cfg(test)]
mod tests;
mod verify;
mod verify_layers;
mod write;
mod writer;

pub use among::Among;
pub use backup::{Restored, restore};
pub use batch::Batch;
pub use error::{Error, Malformed, Result};
pub use read::VisitSnapshot;
pub use salvage::{Salvaged, check_closed, repair_closed};
pub use tail::{Bounds, KEPT, Waited};
pub use verify::{FOUND, MEASURE};
#[cfg(test)]
pub(crate) use writer::WriteFault;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use rocksdb::DB;

/// The store. Cheap to share behind an `Arc`; every method may be called from any thread. Closed
/// when dropped.
#[cfg_attr(not(test), derive(Debug))]
pub struct Store {
    db: Arc<DB>,
    numbers: encoded::Numbers,
    /// Held only to take a number, and once in 1,024 numbers for a write.
    ids: Mutex<write::IdRange>,
    committer: committer::Committer,
    writer: Arc<writer::Writer>,
    counted: Arc<counts::Counted>,
    tail: Arc<tail::Tail>,
    /// Keeps other processes out; after `db`, so that it is released last.
    _lock: File,
}

impl Store {
    /// Opens or makes the store in `dir`, alone: while it lives, opening it again anywhere is
    /// [`Error::InUse`].
    pub fn open(dir: &Path) -> Result<Store> {
        Self::open_with(dir, migrations::MIGRATIONS)
    }

    fn open_with(dir: &Path, migrations: &[migrations::Migration]) -> Result<Store> {
        let (db, numbers, lock) = open::open(dir, migrations)?;
        let db = Arc::new(db);
        let counted = Arc::new(counts::Counted::load(&db));
        let tail = Arc::new(tail::Tail::load(&db)?);
        let writer = writer::Writer::new(Arc::clone(&db), Arc::clone(&tail), Arc::clone(&counted));
        let writer = Arc::new(writer);
        Ok(Store {
            ids: write::IdRange::load(&db)?,
            committer: start(&writer)?,
            writer,
            counted,
            tail,
            db,
            numbers,
            _lock: lock,
        })
    }
}

fn start(writer: &Arc<writer::Writer>) -> Result<committer::Committer> {
    let writer = Arc::clone(writer);
    committer::Committer::start(move |group| writer.write(group)).map_err(|source| Error::Io {
        what: "starting the metadata store's thread".to_owned(),
        source,
    })
}
