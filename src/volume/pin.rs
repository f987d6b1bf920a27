//! The use of an activated volume.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::gate::Gate;
use super::worker::Released;
use super::{Error, Result};
use crate::types::VolumeId;

/// A volume while it is activated and somebody refers to it.
#[derive(Debug)]
pub(super) struct Active {
    id: VolumeId,
    /// A duplicate of the backend's. Stands before `released`: it is closed when the worker hears
    /// of it.
    root: OwnedFd,
    pub(super) gate: Gate,
    used: AtomicBool,
    /// Dropped last.
    _released: Released,
}

impl Active {
    pub(super) fn new(id: VolumeId, root: OwnedFd, writable: bool, released: Released) -> Self {
        let used = AtomicBool::new(false);
        Self { id, root, gate: Gate::new(writable), used, _released: released }
    }

    pub(super) fn id(&self) -> VolumeId {
        self.id
    }

    /// Remembers that the volume is in use, without a write where it is remembered already.
    pub(super) fn mark_used(&self) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn take_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// Keeps a volume activated while it lives. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pin {
    active: Arc<Active>,
}

impl Pin {
    pub(super) fn new(active: Arc<Active>) -> Self {
        Self { active }
    }

    pub(super) fn active(&self) -> &Active {
        &self.active
    }

    /// Root directory of the volume's filesystem.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.active.root()
    }

    /// Which volume it is.
    pub fn volume(&self) -> VolumeId {
        self.active.id
    }

    /// Registers a writer: for the time of one mutating call, or for the life of a handle open for
    /// writing. `ReadOnly` once the volume is sealed or was activated read-only. Waits while a seal
    /// is being tried, so whoever has a writer already clones it instead: the seal waits for the
    /// first one.
    pub fn writer(&self) -> Result<Writer> {
        if self.active.gate.enter() {
            Ok(Writer { pin: self.clone() })
        } else {
            Err(Error::ReadOnly(self.active.id))
        }
    }

    /// Like [`Pin::writer`], but never waits: `None` while a seal is being tried.
    pub fn try_writer(&self) -> Result<Option<Writer>> {
        match self.active.gate.try_enter() {
            Some(true) => Ok(Some(Writer { pin: self.clone() })),
            Some(false) => Err(Error::ReadOnly(self.active.id)),
            None => Ok(None),
        }
    }
}

impl AsFd for Pin {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root()
    }
}

/// Counts as a writer of the volume while it lives: a seal waits for it. Pins the volume too.
#[derive(Debug)]
pub struct Writer {
    pin: Pin,
}

impl Writer {
    /// The volume's pin.
    pub fn pin(&self) -> &Pin {
        &self.pin
    }
}

impl Clone for Writer {
    /// A writer beside this one; never waits, also while a seal is being tried.
    fn clone(&self) -> Self {
        self.pin.active.gate.enter_beside();
        Self { pin: self.pin.clone() }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.pin.active.gate.leave();
    }
}
