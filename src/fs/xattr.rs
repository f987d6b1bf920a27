//! Extended attributes: the files' own, and what the store knows of a snapshot, on its root directory.
//!
//! | name | value |
//! |---|---|
//! | `thinfs.key`, `thinfs.namespace`, `thinfs.kind`, `thinfs.id` | what it is |
//! | `thinfs.parent` | name of the committed snapshot below it; absent if there is none |
//! | `thinfs.created`, `thinfs.updated` | RFC 3339 |
//! | `thinfs.usage.size`, `thinfs.usage.inodes` | what it holds of its own |
//! | `thinfs.labels.<key>` | a label |
//!
//! They answer by name, can't be set, and aren't listed: a copy made with all attributes doesn't take them
//! along.

use std::ffi::OsStr;
use std::sync::atomic::AtomicBool;

use rustix::fs::{XattrFlags, getxattr, listxattr, removexattr, setxattr};
use rustix::io::Errno;

use super::lookup::Peek;
use super::nodes::proc_path;
use super::slots::At;
use super::types::{Caller, NodeId};
use super::{Error, Fs, Result, privileges};
use crate::snapshot::Info;
use crate::sys::creds;

const PREFIX: &str = "thinfs.";
/// `XATTR_SIZE_MAX` and `XATTR_LIST_MAX` of the kernel.
const MAX_LEN: usize = 64 << 10;

impl Fs {
    /// The value of an attribute.
    pub fn getxattr(&self, caller: &Caller, node: NodeId, name: &OsStr) -> Result<Vec<u8>> {
        if self.place(node).is_some() {
            return Err(Errno::NODATA.into());
        }
        if let Some(fact) = virtual_name(node, name) {
            return self.fact(caller, node, fact);
        }
        match self.peek_for_xattr(caller, node)? {
            Peek::At(at) => self.own_xattr(&at, name),
            Peek::Last(_) if is_acl(name) => Err(Errno::NODATA.into()),
            // Not "there is none": the kernel would remember that of an ACL, and rely on it. `ls -l` takes
            // it for none all the same.
            Peek::Last(_) | Peek::Guess => Err(Errno::OPNOTSUPP.into()),
        }
    }

    fn own_xattr(&self, at: &At, name: &OsStr) -> Result<Vec<u8>> {
        let file = self.cached.nodes.descriptor(at)?;
        Ok(with_buffer(|buffer| getxattr(proc_path(&file), name, buffer))?)
    }

    /// The names of all attributes, each with a NUL behind it.
    pub fn listxattr(&self, caller: &Caller, node: NodeId) -> Result<Vec<u8>> {
        if self.place(node).is_some() {
            return Ok(Vec::new());
        }
        let Peek::At(at) = self.peek_for_xattr(caller, node)? else {
            return Ok(Vec::new());
        };
        let file = self.cached.nodes.descriptor(&at)?;
        let names = with_buffer(|buffer| listxattr(proc_path(&file), buffer))?;
        // Names that only root may know, as the kernel hides them elsewhere.
        let names = || names.split_inclusive(|byte| *byte == 0);
        let trusted = |name: &&[u8]| name.starts_with(b"trusted.");
        if !names().any(|name| trusted(&name)) || caller.is_root() {
            return Ok(names().flatten().copied().collect());
        }
        Ok(names().filter(|name| !trusted(name)).flatten().copied().collect())
    }

    /// Sets an attribute; `flags` say whether it must or must not exist.
    pub fn setxattr(
        &self,
        caller: &Caller,
        node: NodeId,
        name: &OsStr,
        value: &[u8],
        flags: u32,
    ) -> Result<()> {
        let (at, _writer) = self.at_to_set(caller, node, name)?;
        let file = self.cached.nodes.descriptor(&at)?;
        let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        let set = || setxattr(proc_path(&file), name, value, flags);
        if name == "system.posix_acl_access" {
            // An ACL stands for group permissions: for members of the group alone the bit stays.
            return Ok(privileges::change(caller, &file, set)?);
        }
        Ok(set()?)
    }

    /// Removes an attribute.
    pub fn removexattr(&self, caller: &Caller, node: NodeId, name: &OsStr) -> Result<()> {
        let (at, _writer) = self.at_to_set(caller, node, name)?;
        Ok(removexattr(proc_path(self.cached.nodes.descriptor(&at)?), name)?)
    }

    fn at_to_set(
        &self,
        caller: &Caller,
        node: NodeId,
        name: &OsStr,
    ) -> Result<(At, crate::volume::Writer)> {
        if self.place(node).is_some() || virtual_name(node, name).is_some() {
            return Err(Errno::PERM.into());
        }
        creds::prepare_thread()?;
        self.writable(caller, node)
    }

    /// The node, activated; unless it is the root of a snapshot that isn't activated for this.
    fn peek_for_xattr(&self, caller: &Caller, node: NodeId) -> Result<Peek> {
        if !node.is_snapshot_root() {
            return self.at(caller, node).map(Peek::At);
        }
        match self.peek(caller, node)? {
            Peek::Last(_) if self.budget.may_activate(caller.may_wait) => {
                self.at(caller, node).map(Peek::At)
            }
            peek => Ok(peek),
        }
    }

    fn fact(&self, caller: &Caller, node: NodeId, fact: &str) -> Result<Vec<u8>> {
        let snapshot = node.snapshot().ok_or(Errno::STALE)?;
        let info = self.snapshots.stat_id(snapshot)?.ok_or(Errno::STALE)?;
        let Some(usage) = fact.strip_prefix("usage.") else {
            return Ok(record_fact(&info, fact).ok_or(Errno::NODATA)?.into_bytes());
        };
        if !matches!(usage, "size" | "inodes") {
            return Err(Errno::NODATA.into());
        }
        if !caller.may_wait {
            return Err(Error::WouldWait);
        }
        let measured = self.snapshots.usage(&info.namespace, &info.key, &AtomicBool::new(false))?;
        let value = if usage == "size" { measured.size } else { measured.inodes };
        Ok(value.to_string().into_bytes())
    }
}

/// What the record itself says.
fn record_fact(info: &Info, fact: &str) -> Option<String> {
    let snapshot = &info.snapshot;
    let moment = |time| jiff::Timestamp::try_from(time).ok().map(|time| time.to_string());
    match fact {
        "key" => Some(info.key.to_string()),
        "namespace" => Some(info.namespace.to_string()),
        "kind" => Some(snapshot.kind.to_string()),
        "id" => Some(snapshot.id.to_string()),
        "parent" => snapshot.parent.as_ref().map(ToString::to_string),
        "created" => moment(snapshot.created),
        "updated" => moment(snapshot.updated),
        _ => snapshot.labels.get(fact.strip_prefix("labels.")?).cloned(),
    }
}

fn is_acl(name: &OsStr) -> bool {
    matches!(name.to_str(), Some("system.posix_acl_access" | "system.posix_acl_default"))
}

fn virtual_name(node: NodeId, name: &OsStr) -> Option<&str> {
    name.to_str().filter(|_| node.is_snapshot_root())?.strip_prefix(PREFIX)
}

/// Calls with a buffer that is short at first, and as long as can be if that doesn't do.
fn with_buffer(
    call: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Vec<u8>> {
    let mut short = [0; 256];
    match call(&mut short) {
        Ok(len) => Ok(short[..len].to_vec()),
        Err(Errno::RANGE) => {
            let mut long = vec![0; MAX_LEN];
            let len = call(&mut long)?;
            long.truncate(len);
            Ok(long)
        }
        Err(errno) => Err(errno),
    }
}
