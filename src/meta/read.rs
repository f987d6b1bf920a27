//! Queries.

use std::ops::ControlFlow;

use super::columns::{
    Children, Column, Digests, Ids, Kinds, Malformed, Snapshots, System, Volumes,
};
use super::error::{Error, Result};
use super::rows::{Moment, get};
use super::{Among, Store, rows};
use crate::types::{Kind, Namespace, Pool, Snapshot, SnapshotId, SnapshotKey, Volume, VolumeId};

/// What a scan calls for each snapshot.
pub type VisitSnapshot<'a> = &'a mut dyn FnMut(SnapshotKey, Snapshot) -> ControlFlow<()>;

impl Store {
    /// The snapshot with this key.
    pub fn snapshot(&self, ns: &Namespace, key: &SnapshotKey) -> Result<Option<Snapshot>> {
        let what = || format!("the record of snapshot {ns}/{key}");
        get(&self.db, Column::Snapshots, &Snapshots::row_key(ns, key), what)?
            .map(|record| Snapshots::decode(&record).map_err(|source| corrupt(what(), source)))
            .transpose()
    }

    /// The snapshot with this id, in whatever namespace.
    pub fn snapshot_by_id(
        &self,
        id: SnapshotId,
    ) -> Result<Option<(Namespace, SnapshotKey, Snapshot)>> {
        let moment = self.moment();
        let Some(row) = moment.get(Column::Ids, &Ids::row_key(id))? else { return Ok(None) };
        let (ns, key) = Ids::decode(&row)
            .map_err(|e| corrupt(format!("the index row of snapshot id {id}"), e))?;
        let snapshot = snapshot_at(&moment, &ns, &key)?;
        Ok(snapshot.map(|snapshot| (ns, key, snapshot)))
    }

    /// Whether any snapshot has this one as parent.
    pub fn has_children(&self, ns: &Namespace, key: &SnapshotKey) -> Result<bool> {
        let mut found = false;
        self.moment().scan_prefix(Column::Children, &Children::prefix(ns, key), &mut |_, _| {
            found = true;
            Ok(ControlFlow::Break(()))
        })?;
        Ok(found)
    }

    /// Keys of the snapshots that have this one as parent, in order.
    pub fn children(&self, ns: &Namespace, key: &SnapshotKey) -> Result<Vec<SnapshotKey>> {
        children_at(&self.moment(), ns, key)
    }

    /// Up to `limit` snapshots of one kind with keys greater than `after`, in key order (a range
    /// scan of the kind index).
    pub fn page(
        &self,
        ns: &Namespace,
        kind: Kind,
        after: Option<&SnapshotKey>,
        limit: usize,
    ) -> Result<Vec<(SnapshotKey, SnapshotId)>> {
        let mut page = Vec::new();
        if limit == 0 {
            return Ok(page);
        }
        let prefix = Kinds::prefix(ns, kind);
        let start = match after {
            Some(after) => successor(Kinds::row_key(ns, kind, after)),
            None => prefix.clone(),
        };
        self.moment().scan(
            Column::Kinds,
            &start,
            Some(&rows::end_of(&prefix)),
            &mut |row_key, value| {
                let (_, _, key) =
                    Kinds::decode_row_key(row_key).map_err(|e| corrupt(kind_row(ns, kind), e))?;
                let id = Kinds::decode(value).map_err(|e| corrupt(kind_row(ns, kind), e))?;
                page.push((key, id));
                Ok(if page.len() < limit {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                })
            },
        )?;
        Ok(page)
    }

    /// Calls `visit` for each snapshot of the namespace as of one moment, in key order, until it
    /// breaks; no lock is held meanwhile.
    pub fn for_each_snapshot(&self, ns: &Namespace, visit: VisitSnapshot<'_>) -> Result<()> {
        self.for_each_among(ns, Among::All, None, visit)
    }

    /// Calls `visit` for each snapshot's kind and id as of one moment, over all namespaces, until it
    /// breaks; reads no record.
    pub fn for_each_kind(
        &self,
        visit: &mut dyn FnMut(Kind, SnapshotId) -> ControlFlow<()>,
    ) -> Result<()> {
        self.moment().scan(Column::Kinds, b"", None, &mut |row_key, value| {
            let bad = |e| corrupt("an index row of kinds".to_owned(), e);
            let (_, kind, _) = Kinds::decode_row_key(row_key).map_err(bad)?;
            let id = Kinds::decode(value).map_err(bad)?;
            Ok(visit(kind, id))
        })
    }

    /// Calls `visit` for each snapshot's id as of one moment, in order of ids, until it breaks;
    /// reads no record.
    pub fn for_each_id(
        &self,
        visit: &mut dyn FnMut(SnapshotId, Namespace, SnapshotKey) -> ControlFlow<()>,
    ) -> Result<()> {
        self.moment().scan(Column::Ids, b"", None, &mut |row_key, value| {
            let bad = |e| corrupt("an index row of ids".to_owned(), e);
            let id = Ids::decode_row_key(row_key).map_err(bad)?;
            let (ns, key) = Ids::decode(value).map_err(bad)?;
            Ok(visit(id, ns, key))
        })
    }

    /// Namespaces that hold at least one snapshot, in order. Jumps from one to the next.
    pub fn namespaces(&self) -> Result<Vec<Namespace>> {
        let moment = self.moment();
        let mut namespaces: Vec<Namespace> = Vec::new();
        loop {
            let start = namespaces.last().map(Snapshots::after_namespace).unwrap_or_default();
            let before = namespaces.len();
            moment.scan(Column::Snapshots, &start, None, &mut |row_key, _| {
                let (ns, _) = Snapshots::decode_row_key(row_key)
                    .map_err(|e| corrupt("a snapshot's row".to_owned(), e))?;
                namespaces.push(ns);
                Ok(ControlFlow::Break(()))
            })?;
            if namespaces.len() == before {
                return Ok(namespaces);
            }
        }
    }

    /// The volume with this id.
    pub fn volume(&self, id: VolumeId) -> Result<Option<Volume>> {
        let what = || format!("the record of volume {id}");
        get(&self.db, Column::Volumes, &Volumes::row_key(id), what)?
            .map(|record| Volumes::decode(id, &record).map_err(|source| corrupt(what(), source)))
            .transpose()
    }

    /// Calls `visit` for each volume (live, lost or tombstone) as of one moment, in order of ids,
    /// until it breaks.
    pub fn for_each_volume(&self, visit: &mut dyn FnMut(Volume) -> ControlFlow<()>) -> Result<()> {
        self.moment().scan(Column::Volumes, b"", None, &mut |row_key, record| {
            let id = Volumes::decode_row_key(row_key)
                .map_err(|e| corrupt("a volume's row".to_owned(), e))?;
            let volume = Volumes::decode(id, record)
                .map_err(|e| corrupt(format!("the record of volume {id}"), e))?;
            Ok(visit(volume))
        })
    }

    /// What was last recorded of the pool.
    pub fn pool(&self) -> Result<Option<Pool>> {
        let what = || "the pool record".to_owned();
        get(&self.db, Column::System, System::POOL, what)?
            .map(|record| System::decode_pool(&record).map_err(|source| corrupt(what(), source)))
            .transpose()
    }

    /// Finds a key too long for a directory name by the SHA-256 that stands in its directory name.
    pub fn key_by_digest(&self, ns: &Namespace, digest: &[u8; 32]) -> Result<Option<SnapshotKey>> {
        let what = || format!("a digest's row in namespace {ns}");
        get(&self.db, Column::Digests, &Digests::row_key(ns, digest), what)?
            .map(|value| Digests::decode(&value).map_err(|source| corrupt(what(), source)))
            .transpose()
    }

    pub(super) fn moment(&self) -> Moment<'_> {
        Moment::now(&self.db)
    }
}

pub(super) fn corrupt(what: String, source: Malformed) -> Error {
    Error::Corrupt { what, source }
}

fn kind_row(ns: &Namespace, kind: Kind) -> String {
    format!("an index row of {kind} snapshots in namespace {ns}")
}

/// The first row key after this one.
pub(super) fn successor(mut row_key: Vec<u8>) -> Vec<u8> {
    row_key.push(0);
    row_key
}

pub(super) fn snapshot_at(
    moment: &Moment<'_>,
    ns: &Namespace,
    key: &SnapshotKey,
) -> Result<Option<Snapshot>> {
    moment
        .get(Column::Snapshots, &Snapshots::row_key(ns, key))?
        .map(|record| {
            Snapshots::decode(&record)
                .map_err(|e| corrupt(format!("the record of snapshot {ns}/{key}"), e))
        })
        .transpose()
}

fn children_at(
    moment: &Moment<'_>,
    ns: &Namespace,
    parent: &SnapshotKey,
) -> Result<Vec<SnapshotKey>> {
    let mut children = Vec::new();
    moment.scan_prefix(Column::Children, &Children::prefix(ns, parent), &mut |row_key, _| {
        let (_, _, child) = Children::decode_row_key(row_key).map_err(|e| {
            corrupt(format!("an index row of the children of snapshot {ns}/{parent}"), e)
        })?;
        children.push(child);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(children)
}

/// Visits the record that an index row names; [`Store::verify`] reports an index row without one.
pub(super) fn visit_key(
    moment: &Moment<'_>,
    ns: &Namespace,
    key: SnapshotKey,
    visit: VisitSnapshot<'_>,
) -> Result<ControlFlow<()>> {
    Ok(match snapshot_at(moment, ns, &key)? {
        Some(snapshot) => visit(key, snapshot),
        None => ControlFlow::Continue(()),
    })
}
