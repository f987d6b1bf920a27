//! Snapshots managed by plain directory operations.
//!
//! | operation | does |
//! |---|---|
//! | `mkdir active/K` | prepares an empty snapshot K |
//! | `mv active/K committed/N` | commits K under the name N |
//! | `rmdir <kind>/K` | removes K, also when it isn't empty |
//!
//! Keys and names share one key space, so N can't be K: `EPERM`, because of which `mv` says what it should
//! (it takes `EEXIST` for something that it could look at).
//!
//! A view needs a parent, which `mkdir` has no way to name: `mkdir view/K` is `EPERM`, like everything else.
//!
//! The kernel makes each of these changes in its own tree as soon as we have answered, so it needs no notice
//! of them ([`super::watch::by_the_kernel`]).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;

use super::names::{self, Name};
use super::tree::Place;
use super::types::{Caller, Entry, FOREVER};
use super::{Error, Fs, Result, lookup, watch};
use crate::types::{Kind, Labels, SnapshotKey};

impl Fs {
    pub(super) fn prepare_named(
        &self,
        caller: &Caller,
        place: &Place,
        name: &OsStr,
    ) -> Result<Entry> {
        let Place::Snapshots(namespace, kind) = place else {
            return Err(Errno::PERM.into());
        };
        let key = new_key(name)?;
        if *kind != Kind::Active {
            tracing::info!(%key, %kind, "only active snapshots are made by mkdir; see `thinfs view` and `thinfs commit`");
            return Err(Errno::PERM.into());
        }
        must_wait(caller)?;
        let info =
            watch::by_the_kernel(|| self.snapshots.prepare(namespace, &key, None, Labels::new()))?;
        Ok(Entry { known: lookup::guessed_root(&info), generation: 0, ttl: FOREVER })
    }

    pub(super) fn remove_named(&self, caller: &Caller, place: &Place, name: &OsStr) -> Result<()> {
        let Place::Snapshots(namespace, kind) = place else {
            return Err(Errno::PERM.into());
        };
        must_wait(caller)?;
        let info = self.snapshot_named(namespace, *kind, name)?.ok_or(Errno::NOENT)?;
        Ok(watch::by_the_kernel(|| self.snapshots.remove(namespace, &info.key))?)
    }

    pub(super) fn rename_snapshot(
        &self,
        caller: &Caller,
        from: (&Place, &OsStr),
        to: (&Place, &OsStr),
    ) -> Result<()> {
        let (
            Place::Snapshots(namespace, Kind::Active),
            Place::Snapshots(to_namespace, Kind::Committed),
        ) = (from.0, to.0)
        else {
            return Err(Errno::PERM.into());
        };
        if namespace != to_namespace {
            return Err(Errno::XDEV.into());
        }
        let name = new_key(to.1)?;
        let info = self.snapshot_named(namespace, Kind::Active, from.1)?.ok_or(Errno::NOENT)?;
        if info.key == name {
            tracing::info!(%name, "a committed snapshot needs a name other than the key");
            return Err(Errno::PERM.into());
        }
        must_wait(caller)?;
        watch::by_the_kernel(|| {
            self.snapshots.commit(namespace, &name, &info.key, Labels::new(), None)
        })?;
        Ok(())
    }
}

fn must_wait(caller: &Caller) -> Result<()> {
    if caller.may_wait { Ok(()) } else { Err(Error::WouldWait) }
}

/// The key that a new name stands for; the name must be the one that listings will show.
fn new_key(name: &OsStr) -> Result<SnapshotKey> {
    match names::decode(name.as_bytes()) {
        Some(Name::Key(key)) => Ok(key),
        Some(Name::Digest(_)) | None => Err(Errno::INVAL.into()),
    }
}
