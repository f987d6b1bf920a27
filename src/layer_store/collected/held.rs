//! What layers and read-write layers have in common: a name with a lock, a record, and reasons to stay.

use std::fmt::Display;
use std::time::Duration;

use super::{BUSY, LEASED, Ruled, STREAMED};
use crate::gc::Kind;
use crate::layer_store::LayerStore;
use crate::layer_store::error::Result;
use crate::snapshot::locks::Mode;
use crate::types::{Namespace, SnapshotKey};

/// A kind of thing that references hold, and leases past the last of them.
pub(super) trait Held {
    const KIND: Kind;
    type Id: Display;
    type Record;

    fn id(text: &str) -> Ruled<Self::Id>;

    /// Its lock.
    fn key(id: &Self::Id) -> SnapshotKey;

    fn record(layers: &LayerStore, id: &Self::Id) -> Ruled<Option<Self::Record>>;

    /// Why it is needed, other than by streams and leases.
    fn needed(
        layers: &LayerStore,
        id: &Self::Id,
        record: &Self::Record,
    ) -> Result<Option<&'static str>>;

    fn remove(layers: &LayerStore, id: &Self::Id, record: &Self::Record) -> Result<()>;
}

/// Removes one, or says why it stays.
pub(super) fn remove_one<T: Held>(layers: &LayerStore, id: &str) -> Result<Option<&'static str>> {
    let streamed = || layers.active.has(T::KIND, id);
    let id = &T::id(id)?;
    let key = T::key(id);
    let wanted = [(&key, Mode::Exclusive)];
    let Some(_held) = layers.locks.hold_within(&layers.ns, &wanted, Duration::ZERO) else {
        return Ok(Some(BUSY));
    };
    let Some(record) = T::record(layers, id)? else { return Ok(None) };
    let needed = T::needed(layers, id, &record)?;
    if needed.is_some() {
        return Ok(needed);
    }
    if streamed() {
        return Ok(Some(STREAMED));
    }
    if layers.is_leased(T::KIND, id)? {
        return Ok(Some(LEASED));
    }
    T::remove(layers, id, &record)?;
    Ok(None)
}

/// Whether it is there. Leases of other namespaces can't ask.
pub(super) fn exists<T: Held>(
    layers: &LayerStore,
    ns: &Namespace,
    id: &str,
) -> Ruled<Option<bool>> {
    layers.refuse_others(ns, T::KIND)?;
    Ok(Some(T::record(layers, &T::id(id)?)?.is_some()))
}

/// Does what needs it to be there, while nobody can remove it.
pub(super) fn while_existing<T: Held>(
    layers: &LayerStore,
    ns: &Namespace,
    id: &str,
    then: &mut dyn FnMut() -> Ruled<()>,
) -> Ruled<Option<bool>> {
    layers.refuse_others(ns, T::KIND)?;
    let key = T::key(&T::id(id)?);
    let _held = layers.locks.hold(ns, &[(&key, Mode::Shared)]);
    let exists = exists::<T>(layers, ns, id)?;
    if exists == Some(true) {
        then()?;
    }
    Ok(exists)
}
