//! Operations on directories as a whole.

use zerocopy::IntoBytes;

use super::super::answer;
use super::super::convert::{caller, entry_out, node};
use super::super::proto::wire::{Dirent, EntryOut, ReadIn};
use super::super::proto::{Reply, Request};
use super::super::serve::Turn;
use super::super::stats::Op;
use super::Decoded;
use crate::fs::Fs;
use crate::fs::types::{Caller, Line};

/// Lines start at multiples of this.
const ALIGNMENT: usize = 8;

impl Turn<'_> {
    /// `READDIR`, and with `attributes` `READDIRPLUS`.
    pub(super) fn readdir(
        &self,
        mut request: Request<'_>,
        reply: Reply,
        attributes: bool,
    ) -> Decoded {
        let ReadIn { offset, size, .. } = request.take()?;
        let directory = node(request.header.nodeid);
        let caller = caller(&request, 0);
        let op = if attributes { Op::Readdirplus } else { Op::Readdir };
        let work = move |fs: &Fs, caller: &Caller| fs.ready(caller, directory);
        self.serve(op, caller, work, move |inner, ready| {
            let mut lines = Lines::new(size as usize, attributes);
            let mut add = |line: &Line<'_>| lines.add(line);
            match ready.and_then(|()| inner.list(&caller, directory, offset, attributes, &mut add))
            {
                Ok(()) => reply.data(&lines.bytes),
                Err(errno) => reply.error(errno),
            }
        });
        Ok(())
    }

    pub(super) fn fsyncdir(&self, request: &Request<'_>, reply: Reply) -> Decoded {
        let directory = node(request.header.nodeid);
        let work = move |fs: &Fs, caller: &Caller| fs.fsync_directory(caller, directory);
        self.serve_waiting(Op::Fsyncdir, caller(request, 0), work, |_, done| {
            answer::empty(reply, done);
        });
        Ok(())
    }
}

/// Lines of a directory, as the kernel reads them.
struct Lines {
    bytes: Vec<u8>,
    room: usize,
    attributes: bool,
}

impl Lines {
    fn new(room: usize, attributes: bool) -> Self {
        Self { bytes: Vec::with_capacity(room.min(64 << 10)), room, attributes }
    }

    /// Adds a line, unless it doesn't fit any more: then says so.
    fn add(&mut self, line: &Line<'_>) -> bool {
        let entry = if self.attributes { size_of::<EntryOut>() } else { 0 };
        let len = entry + size_of::<Dirent>() + line.name.len();
        let padded = len.next_multiple_of(ALIGNMENT);
        if self.bytes.len() + padded > self.room {
            return true;
        }
        if self.attributes {
            // Node 0: a line that the kernel is not to take for a look-up of the name.
            let entry = line.entry.as_ref().map(entry_out).unwrap_or_default();
            self.bytes.extend_from_slice(entry.as_bytes());
        }
        let dirent = Dirent {
            ino: line.node.0,
            off: line.cookie,
            namelen: line.name.len() as u32,
            kind: line.file_type.as_raw_mode() >> 12,
        };
        self.bytes.extend_from_slice(dirent.as_bytes());
        self.bytes.extend_from_slice(line.name);
        self.bytes.resize(self.bytes.len() + padded - len, 0);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::types::NodeId;
    use rustix::fs::FileType;

    fn line(name: &[u8]) -> Line<'_> {
        Line { name, cookie: 9, node: NodeId(5), file_type: FileType::Directory, entry: None }
    }

    #[test]
    fn lines_are_padded_and_end_where_the_room_does() {
        let mut lines = Lines::new(64, false);
        assert!(!lines.add(&line(b"a")));
        assert_eq!(lines.bytes.len(), 32);
        assert!(lines.add(&line(b"123456789")), "24 + 9 don't fit into 32");
        assert!(!lines.add(&line(b"12345678")));
        assert_eq!(lines.bytes.len(), 64);
        assert_eq!(&lines.bytes[16..24], [1, 0, 0, 0, 4, 0, 0, 0]);
    }
}
