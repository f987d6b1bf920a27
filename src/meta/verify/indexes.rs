//! Each index row against the snapshot that it names.

use super::Check;
use crate::meta::batch::Batch;
use crate::meta::batch::references;
use crate::meta::columns::{Children, Column, Digests, Ids, Kinds, Labels, References, Snapshots};
use crate::meta::error::Result;
use crate::types::{Snapshot, SnapshotKey};

impl Check<'_> {
    /// An id whose snapshot is gone while its volume is there tells that the record was dropped.
    pub(super) fn ids(&mut self) -> Result<()> {
        self.each(Column::Ids, |check, row_key, value| {
            let (id, (ns, key)) = match (Ids::decode_row_key(row_key), Ids::decode(value)) {
                (Ok(id), Ok(name)) => (id, name),
                (Err(error), _) | (_, Err(error)) => {
                    return check.bad_row(Column::Ids, row_key, &error.to_string());
                }
            };
            match check.record(&ns, &key)? {
                Some(snapshot) if snapshot.id == id => Ok(()),
                Some(_) => check.orphan(
                    Column::Ids,
                    row_key,
                    format!("id {id} leads to {ns}/{key}, which has another id"),
                ),
                None if check.make_again(&ns, &key, id, "its record is missing")? => Ok(()),
                None => check.orphan(
                    Column::Ids,
                    row_key,
                    format!("id {id} leads to {ns}/{key}, which is missing"),
                ),
            }
        })
    }

    pub(super) fn indexes(&mut self) -> Result<()> {
        self.each(Column::Kinds, |check, row_key, _| {
            let Ok((ns, kind, key)) = Kinds::decode_row_key(row_key) else {
                return check.bad_row(Column::Kinds, row_key, "its key has no row's form");
            };
            let sound = check.record(&ns, &key)?.is_some_and(|snapshot| snapshot.kind == kind);
            check.unless(sound, Column::Kinds, row_key, || {
                format!("{ns}/{key} is listed as {kind}, but is of another kind or missing")
            })
        })?;
        self.each(Column::Children, |check, row_key, _| {
            let Ok((ns, parent, child)) = Children::decode_row_key(row_key) else {
                return check.bad_row(Column::Children, row_key, "its key has no row's form");
            };
            let of_parent = |snapshot: Snapshot| snapshot.parent.as_ref() == Some(&parent);
            let sound = check.record(&ns, &child)?.is_some_and(of_parent);
            check.unless(sound, Column::Children, row_key, || {
                format!("{ns}/{child} is listed as a child of {parent}, but has another parent or is missing")
            })
        })?;
        self.each(Column::Labels, |check, row_key, _| {
            let Ok((ns, key)) = Labels::decode_row_key(row_key) else {
                return check.bad_row(Column::Labels, row_key, "its key has no row's form");
            };
            let has = |snapshot: Snapshot| {
                let row =
                    |(label, value): (&String, &String)| Labels::row_key(&ns, label, value, &key);
                snapshot.labels.iter().any(|label| row(label) == row_key)
            };
            let sound = check.record(&ns, &key)?.is_some_and(has);
            check.unless(sound, Column::Labels, row_key, || {
                format!("{ns}/{key} is listed with a label that it hasn't")
            })
        })?;
        self.each(Column::References, |check, row_key, _| {
            let Ok((ns, key)) = References::decode_row_key(row_key) else {
                return check.bad_row(Column::References, row_key, "its key has no row's form");
            };
            let refers = |snapshot: Snapshot| {
                references(&ns, &key, &snapshot.labels).any(|row| row == row_key)
            };
            let sound = check.record(&ns, &key)?.is_some_and(refers);
            check.unless(sound, Column::References, row_key, || {
                format!("{ns}/{key} is listed with a reference that its labels don't make")
            })
        })?;
        self.each(Column::Digests, |check, row_key, value| {
            let Ok(key) = Digests::decode(value) else {
                return check.bad_row(Column::Digests, row_key, "it names no key");
            };
            let sound = check.digest_is_sound(row_key, &key)?;
            check.unless(sound, Column::Digests, row_key, || {
                format!("a digest leads to {key}, which is another key's or missing")
            })
        })
    }

    fn digest_is_sound(&self, row_key: &[u8], key: &SnapshotKey) -> Result<bool> {
        let digest = Digests::of(key);
        let ns = row_key.strip_suffix(&digest).and_then(|rest| rest.strip_suffix(&[0]));
        let Some(ns) = ns else { return Ok(false) };
        match Snapshots::decode_row_key(&[ns, &[0], key.as_str().as_bytes()].concat()) {
            Ok((ns, key)) => Ok(self.record(&ns, &key)?.is_some()),
            Err(_) => Ok(false),
        }
    }

    pub(super) fn unless(
        &mut self,
        sound: bool,
        column: Column,
        row_key: &[u8],
        problem: impl FnOnce() -> String,
    ) -> Result<()> {
        if sound { Ok(()) } else { self.orphan(column, row_key, problem()) }
    }

    /// A row that no record wants.
    fn orphan(&mut self, column: Column, row_key: &[u8], problem: String) -> Result<()> {
        if self.remade.contains(&(column.name(), row_key.to_vec())) {
            return Ok(());
        }
        let mut mend = Batch::default();
        mend.delete(column, row_key);
        let object = format!("a row of {}", column.name());
        self.mendable(object, problem, "drop the row", mend);
        Ok(())
    }
}
