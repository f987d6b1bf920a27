//! Hard links within a tree that is being copied.
//!
//! The first name of a linked file is made in a staging directory in the new tree's root, under
//! its inode number, and linked to its place; later names are linked from there, whatever the
//! depth at which they stand. The last name *moves* the staged one, so a file with as many links
//! as the filesystem allows can be copied too.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Mode, Stat, linkat, mkdirat, renameat, unlinkat};
use rustix::io::{Errno, Result};

use super::super::{if_there, open};

/// Files with several names, of which at least one has been seen.
#[derive(Default)]
pub(super) struct Links {
    staging: Option<Staging>,
    /// Old inode number → names not seen yet.
    expected: HashMap<u64, u64>,
}

struct Staging {
    name: CString,
    dir: OwnedFd,
}

/// What is to be done for a name.
pub(super) enum Place {
    /// The file has been made before; this name is linked to it already.
    Linked,
    /// The file is to be made, in this directory under this name; then [`Links::publish`].
    Make(CString),
}

impl Links {
    /// Says whether a file of several names has to be made, or links it.
    pub(super) fn place(&mut self, stat: &Stat, dir: BorrowedFd<'_>, name: &CStr) -> Result<Place> {
        let staged = staged_name(stat);
        let Some(left) = self.expected.get_mut(&stat.st_ino) else {
            return Ok(Place::Make(staged));
        };
        let staging = self.staging.as_ref().expect("what was seen has been staged").dir.as_fd();
        *left -= 1;
        if *left == 0 {
            renameat(staging, &staged, dir, name)?;
            self.expected.remove(&stat.st_ino);
        } else {
            linkat(staging, &staged, dir, name, AtFlags::empty())?;
        }
        Ok(Place::Linked)
    }

    /// Where first names are made. `old` and `new` are the roots of the trees: the staging
    /// directory's name must be free in both.
    pub(super) fn staging(
        &mut self,
        old: BorrowedFd<'_>,
        new: BorrowedFd<'_>,
    ) -> Result<BorrowedFd<'_>> {
        let staging = match self.staging.take() {
            Some(staging) => staging,
            None => Staging::make(old, new)?,
        };
        Ok(self.staging.insert(staging).dir.as_fd())
    }

    /// Links a file just made to its first place.
    pub(super) fn publish(&mut self, stat: &Stat, dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
        let staging = self.staging.as_ref().expect("it was made there").dir.as_fd();
        linkat(staging, staged_name(stat), dir, name, AtFlags::empty())?;
        #[allow(clippy::useless_conversion, reason = "narrower on other machines")]
        let names = u64::from(stat.st_nlink);
        self.expected.insert(stat.st_ino, names.saturating_sub(1));
        Ok(())
    }

    /// Removes the staging directory, with what has further names outside the tree.
    pub(super) fn finish(self, new: BorrowedFd<'_>) -> Result<()> {
        let Some(staging) = self.staging else { return Ok(()) };
        for inode in self.expected.keys() {
            unlinkat(&staging.dir, inode.to_string(), AtFlags::empty())?;
        }
        unlinkat(new, &staging.name, AtFlags::REMOVEDIR)
    }
}

impl Staging {
    fn make(old: BorrowedFd<'_>, new: BorrowedFd<'_>) -> Result<Self> {
        for attempt in 0_u32.. {
            let name =
                CString::new(format!(".thinfs-links-{attempt}")).map_err(|_| Errno::INVAL)?;
            if if_there(open::stat(old, &name))?.is_none() {
                mkdirat(new, &name, Mode::RWXU)?;
                return Ok(Self { dir: open::directory(new, &name)?, name });
            }
        }
        Err(Errno::EXIST)
    }
}

fn staged_name(stat: &Stat) -> CString {
    CString::new(stat.st_ino.to_string()).expect("digits hold no NUL")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::testing::dir;
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    /// A file may have 65,000 links on ext4, and its copy must not need one more on the way.
    #[test]
    fn staging_never_has_more_links_than_the_original() {
        let base = tempfile::tempdir().unwrap();
        let (old, new) = (base.path().join("old"), base.path().join("new"));
        fs::create_dir(&old).unwrap();
        fs::create_dir(&new).unwrap();
        fs::write(old.join("0"), "x").unwrap();
        (1..4).for_each(|name| fs::hard_link(old.join("0"), old.join(name.to_string())).unwrap());
        let (old_dir, new_dir) = (dir(&old), dir(&new));
        let mut links = Links::default();
        for name in 0..4 {
            let name = CString::new(name.to_string()).unwrap();
            let stat = open::stat(old_dir.as_fd(), &name).unwrap();
            if let Place::Make(staged) = links.place(&stat, new_dir.as_fd(), &name).unwrap() {
                let staging = links.staging(old_dir.as_fd(), new_dir.as_fd()).unwrap();
                linkat(&old_dir, c"0", staging, &staged, AtFlags::empty()).unwrap();
                unlinkat(&old_dir, c"0", AtFlags::empty()).unwrap();
                links.publish(&stat, new_dir.as_fd(), &name).unwrap();
            }
            // Three old names are left of four, so the new ones and the staged one are the rest.
            let made = fs::metadata(new.join("0")).unwrap().nlink() - 3;
            assert!(made <= 4, "{made} links");
        }
        links.finish(new_dir.as_fd()).unwrap();
        assert_eq!(fs::read_dir(&new).unwrap().count(), 4);
    }
}
