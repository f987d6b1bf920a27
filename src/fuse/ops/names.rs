//! Operations on names in directories.

use super::super::convert::{caller, decode_device, node};
use super::super::proto::wire::{LinkIn, MkdirIn, MknodIn, Rename2In, RenameIn};
use super::super::proto::{Reply, Request};
use super::super::serve::Turn;
use super::super::stats::Op;
use super::super::{again, answer};
use super::Decoded;
use crate::fs::Fs;
use crate::fs::types::{Caller, Rename};

impl Turn<'_> {
    pub(super) fn lookup(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let (parent, name) = (node(request.header.nodeid), request.name()?.to_owned());
        let work = move |fs: &Fs, caller: &Caller| fs.lookup(caller, parent, &name);
        self.serve(Op::Lookup, caller(&request, 0), work, |_, found| answer::lookup(reply, found));
        Ok(())
    }

    pub(super) fn mknod(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let MknodIn { mode, rdev, umask, .. } = request.take()?;
        let (parent, name) = (node(request.header.nodeid), request.name()?.to_owned());
        let resent = request.is_resent();
        let work = move |fs: &Fs, caller: &Caller| {
            let done = fs.mknod(caller, parent, &name, mode, decode_device(rdev));
            if resent { again::made(fs, caller, parent, &name, done) } else { done }
        };
        self.serve(Op::Mknod, caller(&request, umask), work, |_, entry| {
            answer::entry(reply, entry)
        });
        Ok(())
    }

    pub(super) fn mkdir(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let MkdirIn { mode, umask } = request.take()?;
        let (parent, name) = (node(request.header.nodeid), request.name()?.to_owned());
        let resent = request.is_resent();
        let work = move |fs: &Fs, caller: &Caller| {
            let done = fs.mkdir(caller, parent, &name, mode);
            if resent { again::made(fs, caller, parent, &name, done) } else { done }
        };
        self.serve(Op::Mkdir, caller(&request, umask), work, |_, entry| {
            answer::entry(reply, entry)
        });
        Ok(())
    }

    pub(super) fn symlink(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let parent = node(request.header.nodeid);
        let (name, target) = (request.name()?.to_owned(), request.name()?.to_owned());
        let resent = request.is_resent();
        let work = move |fs: &Fs, caller: &Caller| {
            let done = fs.symlink(caller, parent, &name, target.as_ref());
            if resent { again::made(fs, caller, parent, &name, done) } else { done }
        };
        self.serve(Op::Symlink, caller(&request, 0), work, |_, entry| answer::entry(reply, entry));
        Ok(())
    }

    pub(super) fn link(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let linked = node(request.take::<LinkIn>()?.oldnodeid);
        let (parent, name) = (node(request.header.nodeid), request.name()?.to_owned());
        let resent = request.is_resent();
        let work = move |fs: &Fs, caller: &Caller| {
            let done = fs.link(caller, linked, parent, &name);
            if resent { again::made(fs, caller, parent, &name, done) } else { done }
        };
        self.serve(Op::Link, caller(&request, 0), work, |_, entry| answer::entry(reply, entry));
        Ok(())
    }

    pub(super) fn unlink(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let (parent, name) = (node(request.header.nodeid), request.name()?.to_owned());
        let resent = request.is_resent();
        let work = move |fs: &Fs, caller: &Caller| {
            let done = fs.unlink(caller, parent, &name);
            if resent { again::removed(done) } else { done }
        };
        self.serve(Op::Unlink, caller(&request, 0), work, |_, done| answer::empty(reply, done));
        Ok(())
    }

    pub(super) fn rmdir(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let (parent, name) = (node(request.header.nodeid), request.name()?.to_owned());
        let resent = request.is_resent();
        let work = move |fs: &Fs, caller: &Caller| {
            let done = fs.rmdir(caller, parent, &name);
            if resent { again::removed(done) } else { done }
        };
        self.serve(Op::Rmdir, caller(&request, 0), work, |_, done| answer::empty(reply, done));
        Ok(())
    }

    pub(super) fn rename(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let RenameIn { newdir } = request.take()?;
        self.rename_to(request, newdir, 0, reply)
    }

    pub(super) fn rename2(&self, mut request: Request<'_>, reply: Reply) -> Decoded {
        let Rename2In { newdir, flags, .. } = request.take()?;
        self.rename_to(request, newdir, flags, reply)
    }

    fn rename_to(
        &self,
        mut request: Request<'_>,
        new_parent: u64,
        flags: u32,
        reply: Reply,
    ) -> Decoded {
        let rename = Rename {
            parent: node(request.header.nodeid),
            name: request.name()?.to_owned(),
            new_parent: node(new_parent),
            new_name: request.name()?.to_owned(),
            flags: rustix::fs::RenameFlags::from_bits_retain(flags),
        };
        let resent = request.is_resent();
        let work = move |fs: &Fs, caller: &Caller| {
            if !resent {
                return fs.rename(caller, &rename);
            }
            again::may_rename(&rename)?;
            again::moved(fs, caller, &rename, fs.rename(caller, &rename))
        };
        self.serve(Op::Rename, caller(&request, 0), work, |_, done| answer::empty(reply, done));
        Ok(())
    }
}
