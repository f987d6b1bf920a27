//! References in the making, so that no collection misses one.
//!
//! A collection looks at all references as of some moment, and removes what none of them reaches
//! later. Whoever makes a reference notes its target before, and lets go of the note after, the
//! reference can be read. So at the time of removal a snapshot that isn't noted has no reference
//! that the look has missed.
//!
//! ```text
//!   note ───▶ batch ───▶ drop          a note that lives when the watch begins, or is made
//!        watch ──▶ look ──▶ remove     while it lasts, counts until the watch ends
//! ```

use std::borrow::{Borrow, Cow};
use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;

use crate::types::{LEASED_SNAPSHOT, Labels, Namespace, SnapshotKey, label_references};

type Name = (Namespace, SnapshotKey);

/// Who is about to be referred to. Its lock is held for moments.
#[derive(Debug, Default)]
pub struct References {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How many notes of each live.
    making: HashMap<Name, usize>,
    /// All that was noted since the watch began; `None`: nobody watches.
    noted: Option<HashSet<Name>>,
}

/// Lives while references to some snapshots are made.
#[derive(Debug)]
pub struct Noted<'a> {
    references: &'a References,
    names: Vec<Name>,
}

/// Lives as long as a collection.
#[derive(Debug)]
pub struct Watch<'a> {
    references: &'a References,
}

impl References {
    /// To be called before a reference to these snapshots is written, and kept until it is.
    pub fn note<K: Borrow<SnapshotKey>>(
        &self,
        ns: &Namespace,
        keys: impl IntoIterator<Item = K>,
    ) -> Noted<'_> {
        let names: Vec<Name> =
            keys.into_iter().map(|key| (ns.clone(), key.borrow().clone())).collect();
        let mut state = self.state.lock();
        for name in &names {
            *state.making.entry(name.clone()).or_default() += 1;
            if let Some(noted) = &mut state.noted {
                noted.insert(name.clone());
            }
        }
        Noted { references: self, names }
    }

    /// To be called before a collection looks. There is one collection at a time.
    pub fn watch(&self) -> Watch<'_> {
        let mut state = self.state.lock();
        state.noted = Some(state.making.keys().cloned().collect());
        Watch { references: self }
    }

    /// Whether a reference to it was made that the collection may not have seen.
    pub(super) fn is_noted(&self, ns: &Namespace, key: &SnapshotKey) -> bool {
        let state = self.state.lock();
        state.noted.as_ref().is_some_and(|noted| noted.contains(&(ns.clone(), key.clone())))
    }
}

impl Drop for Noted<'_> {
    fn drop(&mut self) {
        let mut state = self.references.state.lock();
        for name in self.names.drain(..) {
            if let Some(count) = state.making.get_mut(&name) {
                *count -= 1;
                if *count == 0 {
                    state.making.remove(&name);
                }
            }
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.references.state.lock().noted = None;
    }
}

/// A snapshot that is made or changed, and the snapshots that its labels refer to.
pub(super) fn named<'a>(
    key: &'a SnapshotKey,
    labels: &Labels,
) -> impl Iterator<Item = Cow<'a, SnapshotKey>> + use<'a> {
    let targets: Vec<_> = label_references(labels)
        .filter(|reference| reference.kind == LEASED_SNAPSHOT && !reference.back)
        .filter_map(|reference| SnapshotKey::new(reference.id).ok())
        .map(Cow::Owned)
        .collect();
    std::iter::once(Cow::Borrowed(key)).chain(targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ns() -> Namespace {
        Namespace::default()
    }

    fn key(key: &str) -> SnapshotKey {
        SnapshotKey::new(key).unwrap()
    }

    #[test]
    fn notes_made_before_or_during_a_watch_count_until_it_ends() {
        let references = References::default();
        drop(references.note(&ns(), [&key("long past")]));
        let during = references.note(&ns(), [&key("before")]);
        let watch = references.watch();
        drop(during);
        drop(references.note(&ns(), [&key("meanwhile")]));
        assert!(references.is_noted(&ns(), &key("before")));
        assert!(references.is_noted(&ns(), &key("meanwhile")));
        assert!(!references.is_noted(&ns(), &key("long past")));
        assert!(!references.is_noted(&Namespace::new("other").unwrap(), &key("before")));
        drop(watch);
        let _watch = references.watch();
        assert!(!references.is_noted(&ns(), &key("before")));
        assert!(references.state.lock().making.is_empty());
    }
}
