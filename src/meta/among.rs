//! Scans over some of a namespace's snapshots, by whichever index holds them, in key order.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use super::columns::{Children, Column, Kinds, Labels, Malformed, References, Snapshots};
use super::error::Result;
use super::read::{VisitSnapshot, corrupt, successor, visit_key};
use super::rows::{Moment, end_of};
use super::{Error, Store};
use crate::types::{Kind, LabelReference, Namespace, Snapshot, SnapshotKey};

/// Which snapshots a scan visits. All but the first read an index, and of the records only those
/// that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Among<'a> {
    /// All of the namespace.
    All,
    /// Those of one kind.
    Kind(Kind),
    /// Those with this parent.
    ChildrenOf(&'a SnapshotKey),
    /// The one with this key.
    Named(&'a SnapshotKey),
    /// Those with this label, of any value or of one; and, rarely, one without it (the index holds
    /// hashes): the visitor looks at the labels.
    Label(&'a str, Option<&'a str>),
    /// Those with a label that refers to this (`containerd.io/gc.ref.…`), or that by their own word this one keeps
    /// (`gc.bref`).
    Naming(LabelReference<'a>),
}

impl Store {
    /// Calls `visit` for each snapshot among these with a key greater than `after`, as of one
    /// moment, in key order, until it breaks; no lock is held meanwhile.
    pub fn for_each_among(
        &self,
        ns: &Namespace,
        among: Among<'_>,
        after: Option<&SnapshotKey>,
        visit: VisitSnapshot<'_>,
    ) -> Result<()> {
        let moment = self.moment();
        match among {
            Among::All => all(&moment, ns, after, visit),
            Among::Named(_) => visit_keys(&moment, ns, keys(&moment, ns, among, after)?, visit),
            // Rows of one label stand in the order of its values.
            Among::Label(_, None) => {
                visit_keys(&moment, ns, keys(&moment, ns, among, after)?, visit)
            }
            Among::Kind(_) | Among::ChildrenOf(_) | Among::Label(_, Some(_)) | Among::Naming(_) => {
                each_key(&moment, ns, among, after, &mut |key| visit_key(&moment, ns, key, visit))
            }
        }
    }

    /// The same for snapshots that are among any of several.
    pub fn for_each_among_any(
        &self,
        ns: &Namespace,
        several: &[Among<'_>],
        after: Option<&SnapshotKey>,
        visit: VisitSnapshot<'_>,
    ) -> Result<()> {
        if let [one] = several {
            return self.for_each_among(ns, *one, after, visit);
        }
        if several.contains(&Among::All) {
            return self.for_each_among(ns, Among::All, after, visit);
        }
        let moment = self.moment();
        let mut all = BTreeSet::new();
        for among in several {
            all.append(&mut keys(&moment, ns, *among, after)?);
        }
        visit_keys(&moment, ns, all, visit)
    }

    /// Up to `limit` keys of these, greater than `after`, in order; reads no record.
    pub fn keys_among(
        &self,
        ns: &Namespace,
        among: Among<'_>,
        after: Option<&SnapshotKey>,
        limit: usize,
    ) -> Result<Vec<SnapshotKey>> {
        let mut page = Vec::new();
        each_key(&self.moment(), ns, among, after, &mut |key| {
            page.push(key);
            Ok(if page.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        Ok(page)
    }
}

fn all(
    moment: &Moment<'_>,
    ns: &Namespace,
    after: Option<&SnapshotKey>,
    visit: VisitSnapshot<'_>,
) -> Result<()> {
    let prefix = Snapshots::prefix(ns);
    let start = after.map_or(prefix.clone(), |after| successor(Snapshots::row_key(ns, after)));
    moment.scan(Column::Snapshots, &start, Some(&end_of(&prefix)), &mut |row_key, record| {
        let (_, key) = Snapshots::decode_row_key(row_key)
            .map_err(|e| corrupt(format!("a snapshot's row in namespace {ns}"), e))?;
        let snapshot: Snapshot = Snapshots::decode(record)
            .map_err(|e| corrupt(format!("the record of snapshot {ns}/{key}"), e))?;
        Ok(visit(key, snapshot))
    })
}

/// Keys that the index names, in its order.
fn each_key(
    moment: &Moment<'_>,
    ns: &Namespace,
    among: Among<'_>,
    after: Option<&SnapshotKey>,
    visit: &mut dyn FnMut(SnapshotKey) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let (column, prefix) = match among {
        Among::Named(key) if after.is_none_or(|after| key > after) => {
            return visit(key.clone()).map(|_| ());
        }
        Among::Named(_) => return Ok(()),
        Among::All => (Column::Snapshots, Snapshots::prefix(ns)),
        Among::Kind(kind) => (Column::Kinds, Kinds::prefix(ns, kind)),
        Among::ChildrenOf(parent) => (Column::Children, Children::prefix(ns, parent)),
        Among::Label(label, value) => (Column::Labels, Labels::prefix(ns, label, value)),
        Among::Naming(LabelReference { kind, id, back }) => {
            (Column::References, References::prefix(ns, kind, id, back))
        }
    };
    let ordered = !matches!(among, Among::Label(_, None));
    let start = match after.filter(|_| ordered) {
        Some(after) => successor([&prefix[..], after.as_str().as_bytes()].concat()),
        None => prefix.clone(),
    };
    moment.scan(column, &start, Some(&end_of(&prefix)), &mut |row_key, _| {
        let key = key_in(column, row_key).map_err(|e| bad_row(ns, column, e))?;
        match after {
            Some(after) if key <= *after => Ok(ControlFlow::Continue(())),
            _ => visit(key),
        }
    })
}

fn keys(
    moment: &Moment<'_>,
    ns: &Namespace,
    among: Among<'_>,
    after: Option<&SnapshotKey>,
) -> Result<BTreeSet<SnapshotKey>> {
    let mut keys = BTreeSet::new();
    each_key(moment, ns, among, after, &mut |key| {
        keys.insert(key);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(keys)
}

fn visit_keys(
    moment: &Moment<'_>,
    ns: &Namespace,
    keys: BTreeSet<SnapshotKey>,
    visit: VisitSnapshot<'_>,
) -> Result<()> {
    for key in keys {
        if visit_key(moment, ns, key, visit)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// The snapshot key in a row of an index.
fn key_in(column: Column, row_key: &[u8]) -> std::result::Result<SnapshotKey, Malformed> {
    Ok(match column {
        Column::Kinds => Kinds::decode_row_key(row_key)?.2,
        Column::Children => Children::decode_row_key(row_key)?.2,
        Column::Labels => Labels::decode_row_key(row_key)?.1,
        Column::References => References::decode_row_key(row_key)?.1,
        _ => Snapshots::decode_row_key(row_key)?.1,
    })
}

fn bad_row(ns: &Namespace, column: Column, source: Malformed) -> Error {
    corrupt(format!("an index row of {} in namespace {ns}", column.name()), source)
}
