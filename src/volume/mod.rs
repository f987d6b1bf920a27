//! Volumes: one filesystem each, for one snapshot's files. Knows ids, devices and directories;
//! knows no key, name or RocksDB.
//!
//! [`Backend`] is what `thin` and `native` do differently. [`Volumes`] keeps a bounded number of
//! volumes activated and counts who uses them:
//!
//! ```text
//!                 pin                       last pin gone and not among the
//!  (inactive) ─────────▶ activated, pinned ──── `limit` used last ────▶ waits for a worker ──▶ (inactive)
//!                            ▲    │ ▲                                      │ drop caches, deactivate
//!                        pin │    ▼ └───────────── pin ────────────────────┘
//!                        activated, idle
//! ```
//!
//! Who uses an activated volume owns a reference to its `pin::Active`: the pins, and the list of
//! volumes used last (`idle::Idle`). Retiring and evicting only drop that list's reference;
//! whichever reference goes last has the volume deactivated. So "pinned" and "deactivated" can't
//! both be true, and no count has to agree with anything.
//!
//! Locks, in the order in which they are taken: `Slot::op` (one a volume; held over the backend's
//! calls) → one of the short ones, never two at a time, never over anything that blocks: the maps
//! of `slots::Slots`, `idle::Idle`, the sets of sealed and closed ids, the failures not told yet,
//! the workers' queue.
//! `Gate::decision` is held by nobody who waits for another lock.

mod activation;
mod backend;
mod error;
mod fork;
mod gate;
mod handout;
mod id_set;
mod idle;
pub mod native;
mod pin;
mod rest;
mod seal;
mod slots;
pub mod thin;
mod volumes;
mod worker;

#[cfg(test)]
mod tests;

pub use backend::{
    Access, Backend, BlockDevice, Capacity, Mounted, NewVolume, Reconciled, Retried, Share, Shares,
    Watcher,
};
pub use error::{Error, Result};
pub use fork::Fork;
pub use native::{NativeBackend, NativeConfig};
pub use pin::{Pin, Writer};
pub use seal::Seal;
pub use volumes::{Activity, Cache, VolumeStatus, Volumes};

pub use crate::tree::Changed;
