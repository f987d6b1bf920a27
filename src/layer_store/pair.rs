//! Two trees to be compared, both held open.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::AtomicBool;

use super::LayerStore;
use super::error::Result;
use crate::snapshot::{Lineage, Opened};
use crate::tree::DiffOptions;

/// What was, and what is.
pub(super) struct Pair {
    old: Old,
    new: Opened,
    lineage: Lineage,
}

enum Old {
    Snapshot(Opened),
    /// An empty directory.
    Nothing(File),
}

impl LayerStore {
    /// `None`: nothing was.
    pub(super) fn pair(
        &self,
        old: Option<Opened>,
        new: Opened,
        cancel: &AtomicBool,
    ) -> Result<Pair> {
        Ok(match old {
            Some(old) => {
                let lineage = self.snapshots.lineage(&old, &new, cancel)?;
                Pair { old: Old::Snapshot(old), new, lineage }
            }
            None => {
                let empty = self.records.empty()?;
                Pair { old: Old::Nothing(empty), new, lineage: Lineage::default() }
            }
        })
    }
}

impl Pair {
    pub(super) fn old_root(&self) -> BorrowedFd<'_> {
        match &self.old {
            Old::Snapshot(opened) => opened.pin.root(),
            Old::Nothing(empty) => empty.as_fd(),
        }
    }

    pub(super) fn new_root(&self) -> BorrowedFd<'_> {
        self.new.pin.root()
    }

    pub(super) fn options(&self) -> DiffOptions<'_> {
        let Lineage { same, changed } = &self.lineage;
        DiffOptions { content: false, same_lineage: *same, changed: changed.as_ref() }
    }
}
