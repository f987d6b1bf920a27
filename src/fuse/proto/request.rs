//! A request: its header, and what follows it, taken piece by piece.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::flags::{UNIQUE_RESEND, opcode};
use super::wire::{BatchForgetIn, ForgetOne, InHeader};
use crate::fs::types::NodeId;
use crate::types::SnapshotId;

/// A request in the buffer that it was read into.
#[derive(Debug)]
pub struct Request<'a> {
    /// Which operation, by whom, on what.
    pub header: InHeader,
    body: &'a [u8],
}

impl<'a> Request<'a> {
    /// Decodes; `None` for what no kernel sends.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (header, body) = InHeader::read_from_prefix(bytes).ok()?;
        (header.len as usize == bytes.len()).then_some(Self { header, body })
    }

    /// Which snapshot it is about; `None` for the directories above them. Of nodes to be forgotten together, the first's.
    pub fn snapshot(&self) -> Option<SnapshotId> {
        let first = match self.header.opcode {
            opcode::BATCH_FORGET => self.body.get(size_of::<BatchForgetIn>()..),
            _ => None,
        };
        let first = first.and_then(|rest| ForgetOne::read_from_prefix(rest).ok());
        NodeId(first.map_or(self.header.nodeid, |(first, _)| first.nodeid)).snapshot()
    }

    /// Whether it was sent before, to a process that didn't answer.
    pub fn is_resent(&self) -> bool {
        self.header.unique & UNIQUE_RESEND != 0
    }

    /// The next struct.
    pub fn take<T: FromBytes + KnownLayout + Immutable>(&mut self) -> Result<T, Errno> {
        let (value, rest) = T::read_from_prefix(self.body).map_err(|_| Errno::INVAL)?;
        self.body = rest;
        Ok(value)
    }

    /// The next string.
    pub fn name(&mut self) -> Result<&'a OsStr, Errno> {
        let end = self.body.iter().position(|byte| *byte == 0).ok_or(Errno::INVAL)?;
        let (name, rest) = self.body.split_at(end);
        self.body = &rest[1..];
        Ok(OsStr::from_bytes(name))
    }

    /// The next bytes.
    pub fn bytes(&mut self, len: u32) -> Result<&'a [u8], Errno> {
        let (bytes, rest) = self.body.split_at_checked(len as usize).ok_or(Errno::INVAL)?;
        self.body = rest;
        Ok(bytes)
    }

    /// Whether anything follows.
    pub fn is_at_end(&self) -> bool {
        self.body.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::{GetxattrIn, RenameIn};
    use super::*;
    use zerocopy::IntoBytes;

    fn message(body: &[u8]) -> Vec<u8> {
        let header = InHeader { len: 40 + body.len() as u32, opcode: 12, ..Default::default() };
        [header.as_bytes(), body].concat()
    }

    #[test]
    fn a_request_is_taken_piece_by_piece() {
        let message = message(&[&7_u64.to_ne_bytes()[..], b"from\0to\0rest"].concat());
        let mut request = Request::parse(&message).unwrap();
        assert_eq!(request.take::<RenameIn>().unwrap().newdir, 7);
        assert_eq!(
            (request.name().unwrap(), request.name().unwrap()),
            ("from".as_ref(), "to".as_ref())
        );
        assert_eq!(request.bytes(4).unwrap(), b"rest");
        assert!(request.is_at_end());
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        let message = message(b"abc");
        let mut request = Request::parse(&message).unwrap();
        assert_eq!(request.take::<GetxattrIn>().unwrap_err(), Errno::INVAL);
        assert_eq!(request.name().unwrap_err(), Errno::INVAL);
        assert_eq!(request.bytes(4).unwrap_err(), Errno::INVAL);
        assert!(Request::parse(&message[..42]).is_none());
        assert!(Request::parse(&message[..10]).is_none());
    }
}
