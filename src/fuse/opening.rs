//! Regular files opened and closed: which way each is read and written, and that a successor may know it.

use std::sync::Arc;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;
use zerocopy::IntoBytes;

use super::backing::Registered;
use super::convert::entry_out;
use super::ledger::{Record, kind};
use super::proto::flags::fopen;
use super::proto::wire::OpenOut;
use super::proto::{Device, Reply, Request};
use super::serve::{Inner, waited_errno};
use crate::crashpoint::{Step, around};
use crate::fs::types::{Entry, NodeId};
use crate::fs::{Asked, Hold, Opened};

impl Inner {
    /// A file is open from now on: what the kernel is told, and what a successor is.
    fn opened(&self, opened: &Opened, asked: Asked, reply: &Reply) -> OpenOut {
        let out = self.way(opened, asked, reply);
        if let Some(ledger) = &self.ledger {
            ledger.record(&Record {
                handle: out.fh,
                node: opened.file.node.0,
                unique: reply.unique(),
                flags: asked.0.bits(),
                open_flags: out.open_flags,
                backing: out.backing_id,
                kind: kind::OPEN,
            });
        }
        out
    }

    /// A file is open that a daemon before this one opened; `hold` if the kernel reads and writes it by itself.
    pub(super) fn reopen(
        &self,
        device: &Device,
        record: &Record,
        hold: Option<Arc<dyn Hold>>,
    ) -> Result<(), Errno> {
        let (node, asked) = (NodeId(record.node), Asked(OFlags::from_bits_retain(record.flags)));
        let passed = hold.is_some();
        // Also of one that is lost: the kernel has it open so, and refuses another way until it is closed.
        self.backings.reopen(node, hold);
        if let Err(error) = self.fs.reopen(node, asked, record.handle) {
            self.lost.lock().insert(record.handle);
            return Err(waited_errno(error));
        }
        if passed && asked.may_map_writable() {
            self.begin_bypass(device, node);
        }
        let (fh, open_flags) = (record.handle, record.open_flags);
        let out = OpenOut { fh, open_flags, backing_id: record.backing };
        self.opened_before.lock().insert(record.unique, out);
        Ok(())
    }

    /// The kernel has closed a file. Erased from the ledger first: a successor would not know whether the
    /// kernel still has the backing id.
    pub(super) fn closed(&self, node: NodeId, asked: Asked, handle: u64) {
        if let Some(ledger) = &self.ledger {
            ledger.erase(handle);
        }
        if self.fs.file(handle).is_err() {
            // Lost when this daemon took over; or closed by the one before, which didn't get to say so.
            if self.lost.lock().remove(&handle) {
                self.backings.close(node);
            }
            return;
        }
        let passed = self.backings.close(node);
        if passed && asked.may_map_writable() {
            self.fs.release_bypassed(handle);
        } else {
            self.fs.release(handle);
        }
    }

    /// The answer to a request that was sent before, if the file is open since then.
    pub(super) fn answer_opened_before(
        &self,
        request: &Request<'_>,
        reply: Reply,
    ) -> Option<Reply> {
        if !request.is_resent() {
            return Some(reply);
        }
        match self.opened_before.lock().remove(&reply.unique()) {
            Some(out) => {
                self.unless_taken(reply.deliver(&[out.as_bytes()]), out.fh);
                None
            }
            None => Some(reply),
        }
    }

    /// The same for a file that was made by the request.
    pub(super) fn answer_created_before(
        &self,
        request: &Request<'_>,
        reply: Reply,
    ) -> Option<Reply> {
        if !request.is_resent() {
            return Some(reply);
        }
        let Some(out) = self.opened_before.lock().remove(&reply.unique()) else {
            return Some(reply);
        };
        let taken = match self.fs.entry_of_open(out.fh) {
            Ok(entry) => reply.deliver(&[entry_out(&entry).as_bytes(), out.as_bytes()]),
            Err(error) => {
                reply.error(waited_errno(error));
                false
            }
        };
        self.unless_taken(taken, out.fh);
        None
    }

    /// A file of whose opening the kernel has not heard is closed again: it won't say so.
    fn unless_taken(&self, taken: bool, handle: u64) {
        if !taken && let Ok(file) = self.fs.file(handle) {
            self.closed(file.node, file.asked, handle);
        }
    }

    /// How an opened file is to be read and written: by the kernel itself if it can.
    fn way(&self, opened: &Opened, asked: Asked, reply: &Reply) -> OpenOut {
        let node = opened.file.node;
        // Past us a file is changed with rights that are the same for all, so not one with privileges.
        let register = || match opened.file.has_privileges() {
            true => Err(Errno::PERM),
            false => opened.file.hold(|file| {
                self.stats.count_registered();
                let registered = Registered::new(reply.device(), self.ledger.as_ref(), file);
                registered.map(|registered| Arc::new(registered) as Arc<dyn Hold>)
            }),
        };
        let Some(backing) = self.backings.open(node, register) else {
            let open_flags = request_flags(asked);
            return OpenOut { fh: opened.handle, open_flags, backing_id: 0 };
        };
        self.stats.count_passthrough();
        if asked.may_map_writable() {
            self.begin_bypass(reply.device(), node);
        }
        let open_flags = fopen::NOFLUSH | fopen::PASSTHROUGH;
        OpenOut { fh: opened.handle, open_flags, backing_id: backing.number() }
    }

    /// The kernel is told at once, before it knows of the opening. For a file's attributes alone it takes no lock that
    /// somebody could hold who waits for us, unlike for all else, which must go by way of the invalidator.
    fn begin_bypass(&self, device: &Device, node: NodeId) {
        self.fs.begin_bypass(node);
        if let Err(errno) = device.invalidate_node(node.0, -1) {
            tracing::debug!(%errno, ?node, "the kernel doesn't know the file yet");
        }
    }

    pub(super) fn answer_open(&self, opened: &Opened, asked: Asked, reply: Reply) {
        let out = self.opened(opened, asked, &reply);
        if out.backing_id == 0
            && let Err(error) = opened.file.open_for_requests()
        {
            reply.error(waited_errno(error));
            return self.unless_taken(false, out.fh);
        }
        let taken = around(Step::TellOpened, || reply.deliver(&[out.as_bytes()]));
        self.unless_taken(taken, out.fh);
    }

    pub(super) fn answer_create(&self, entry: &Entry, opened: &Opened, asked: Asked, reply: Reply) {
        let out = self.opened(opened, asked, &reply);
        let mut entry = *entry;
        if out.open_flags & fopen::PASSTHROUGH != 0 && asked.may_map_writable() {
            // What is written by way of a mapping outdates them.
            entry.known.ttl = Duration::ZERO;
        }
        let taken = around(Step::TellOpened, || {
            reply.deliver(&[entry_out(&entry).as_bytes(), out.as_bytes()])
        });
        self.unless_taken(taken, out.fh);
    }
}

fn request_flags(asked: Asked) -> u32 {
    let direct = fopen::DIRECT_IO | fopen::PARALLEL_DIRECT_WRITES;
    fopen::NOFLUSH | if asked.direct() { direct } else { fopen::KEEP_CACHE }
}
