//! Files that programs have closed and still have mapped.
//!
//! A mapping of a file that the kernel reads and writes by itself keeps the backing file open, not ours: we hear of the
//! close, and of the mapping nothing, through which the file may change yet. So at the last close of a file that could
//! be mapped for writing we ask whether somebody has the backing file open for writing ([`crate::sys::lease`]).
//!
//! ```text
//! open for both ──last close──▶ asked ──nobody──▶ closed
//!                                 │                  ▲
//!                              somebody            nobody
//!                                 ▼                  │
//!                               mapped ───asked again, every SHORTEST to LONGEST
//! ```
//!
//! A mapped file counts as written, so that a commit waits for it and its volume stays; and its attributes hold for no
//! time. A daemon that takes over after a kill doesn't know of it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::Fs;
use super::nodes::{Held, proc_path};
use super::types::NodeId;
use crate::sys::lease;
use crate::volume::Writer;

/// The pause between two looks doubles as long as nothing changes. A commit is more patient than the longest.
const SHORTEST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_millis(400);
/// A look may take one of so many parts of the time: with thousands of files the pauses get longer than that.
const SHARE: u32 = 20;

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Mapped {
    files: HashMap<NodeId, File>,
    /// A thread looks after them.
    watched: bool,
}

/// One that counts as open, though the kernel has closed it.
#[derive(Debug)]
struct File {
    held: Arc<Held>,
    _writer: Writer,
}

impl File {
    /// What can't be asked counts as closed, as the kernel has said.
    fn is_mapped(&self) -> bool {
        lease::is_written(&proc_path(&self.held)).unwrap_or_else(|errno| {
            tracing::debug!(%errno, file = ?self.held, "nobody can tell whether it is mapped");
            false
        })
    }
}

impl Fs {
    /// The kernel has closed a file that it read and wrote by itself, and that may be mapped for writing. Matches a
    /// [`Fs::begin_bypass`].
    pub fn release_bypassed(self: &Arc<Self>, handle: u64) {
        let Some(open) = self.open.remove(handle) else { return };
        let (node, held, writer) = (open.node, open.held(), open.writer());
        drop(open);
        // Whoever else has it open is asked at the last close. Under the lock, for a mapped one counts as another.
        let mapped = self.open.mapped.lock();
        let last = self.open.is_last_bypass(node);
        drop(mapped);
        if !last {
            return;
        }
        if let (Some(held), Some(writer)) = (held, writer) {
            let file = File { held, _writer: writer };
            if file.is_mapped() {
                return self.keep_mapped(node, file);
            }
        }
        self.open.end_bypass(node);
    }

    fn keep_mapped(self: &Arc<Self>, node: NodeId, file: File) {
        let mut mapped = self.open.mapped.lock();
        mapped.files.insert(node, file);
        if std::mem::replace(&mut mapped.watched, true) {
            return;
        }
        let fs = Arc::downgrade(self);
        let thread = std::thread::Builder::new().name("mapped-files".into());
        if let Err(error) = thread.spawn(move || watch(&fs)) {
            // The next one that is mapped tries again.
            tracing::warn!(%error, "no thread to look after mapped files");
            mapped.watched = false;
        }
    }

    /// Closes those that nobody has mapped any more. Says how many; `None` once none is left.
    fn close_unmapped(&self) -> Option<usize> {
        let mut mapped = self.open.mapped.lock();
        let closed: Vec<_> = mapped.files.extract_if(|_, file| !file.is_mapped()).collect();
        mapped.watched = !mapped.files.is_empty();
        closed.iter().for_each(|(node, _)| self.open.end_bypass(*node));
        let watched = mapped.watched;
        drop(mapped);
        watched.then_some(closed.len())
    }

    /// The same for one, at once. The kernel may let go of a file a moment after we have heard of its close.
    pub(super) fn close_if_unmapped(&self, node: NodeId) {
        let mut mapped = self.open.mapped.lock();
        if mapped.files.get(&node).is_some_and(|file| !file.is_mapped()) {
            let closed = mapped.files.remove(&node);
            self.open.end_bypass(node);
            drop(mapped);
            drop(closed);
        }
    }
}

/// Ends when no file is mapped any more, or nobody needs the tree.
fn watch(fs: &Weak<Fs>) {
    let mut pause = SHORTEST;
    loop {
        std::thread::sleep(pause);
        let Some(fs) = fs.upgrade() else { return };
        let begun = Instant::now();
        let Some(closed) = fs.close_unmapped() else { return };
        let longer = if closed == 0 { pause * 2 } else { SHORTEST };
        pause = longer.min(LONGEST).max(begun.elapsed() * SHARE);
    }
}
