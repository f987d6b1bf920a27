//! A mount whose daemon died, taken over by the next one.
//!
//! The connection to the kernel is a descriptor, and lives as long as somebody keeps that: systemd, or whoever
//! started the daemon. The successor
//! 1. opens again every file that the [`Ledger`] says is open, under the number that the kernel knows, so that
//!    its volume is pinned and its writer counted before anyone can ask for a commit; and gives back the backing files
//!    that the kernel was told to hold on to and that nobody has open, for they would hold on to their volumes;
//! 2. asks the kernel to send again what the dead daemon had read but not answered (Linux 6.9; `again` says
//!    what that means for each operation). Older kernels leave those callers waiting: they can be killed;
//! 3. begins to serve. Not sooner: the kernel would send again what the successor has just read itself, and each
//!    such request would be done twice; an opened file would stay open for ever.
//!
//! Nodes need nothing: their ids say which file they are. Locks, working directories, mappings, and files that
//! the kernel reads and writes itself have stayed in the kernel all the while. Lost are: a directory without a
//! name that somebody stands in; a file without a name that isn't read and written by the kernel itself; and on
//! a backing filesystem other than ext4, where handles can't be made of inode numbers, what is open or stood in
//! answers `ESTALE`.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::backing::Registered;
use super::ledger::{Ledger, Record, kind};
use super::proto::{BackingId, Device};
use super::serve::Inner;
use crate::fs::Hold;
use crate::sys::poll::has_failed;

/// What a daemon left to its successor.
#[derive(Debug)]
pub struct Kept {
    pub(super) device: Arc<Device>,
    pub(super) ledger: Ledger,
    pub(super) open: Vec<Record>,
}

impl Kept {
    /// From the descriptors that were kept. An error if they aren't what they should be.
    pub fn adopt(device: OwnedFd, ledger: OwnedFd) -> io::Result<Self> {
        let (ledger, open) = Ledger::adopt(ledger)?;
        Ok(Self { device: Arc::new(Device::adopt(device)), ledger, open })
    }

    /// Whether the connection still leads to the kernel.
    pub fn is_connected(&self) -> bool {
        !has_failed(self.device.as_fd())
    }

    /// The kernel's number of the connection.
    pub fn connection(&self) -> u64 {
        self.ledger.connection()
    }
}

/// Opens again what is open. What can't be, say since its volume is lost, is reported; its users get errors.
pub(super) fn reopen(inner: &Inner, device: &Arc<Device>, records: &[Record]) {
    let (held, open): (Vec<&Record>, Vec<&Record>) =
        records.iter().partition(|record| record.kind == kind::BACKING);
    let adopt = |number| {
        Arc::new(Registered::adopt(device, inner.ledger.as_ref(), number)) as Arc<dyn Hold>
    };
    // Dropped at the end, and with them what nobody has open.
    let holds: HashMap<u32, Arc<dyn Hold>> =
        held.iter().map(|record| (record.backing, adopt(record.backing))).collect();
    if let Some(ledger) = &inner.ledger {
        ledger.perhaps_registered().for_each(|number| drop(BackingId::adopt(device, number)));
    }
    let mut failed = 0;
    for record in &open {
        if let Err(error) = inner.reopen(device, record, holds.get(&record.backing).cloned()) {
            failed += 1;
            tracing::error!(%error, node = ?record.node, "an open file is lost");
        }
    }
    tracing::info!(open = open.len(), failed, "took over the mount of a daemon that died");
}
