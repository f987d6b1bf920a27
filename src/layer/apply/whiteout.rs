//! Entries that remove: `.wh.<name>` and `.wh..wh..opq`.
//!
//! Both concern only what lies below the layer. What is the layer's own stays, whichever comes
//! first; a directory that the layer doesn't list but has entries in stays too, emptied and with
//! the attributes of a directory made for being on the way.

use std::ffi::CString;
use std::os::fd::AsFd;

use rustix::fs::Dir;

use super::Apply;
use super::attributes;
use super::place::{self, Place};
use super::upper::Upper;
use crate::layer::error::{Doing, Error, Result, text};
use crate::layer::split::Sink;

const PREFIX: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What a whiteout removes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Whiteout {
    /// Everything in its directory.
    Opaque,
    /// The entry of this name in its directory.
    Name(CString),
}

/// Tells whiteouts from other entries by the last component of a clean path.
pub(super) fn parse(path: &[u8]) -> Result<Option<Whiteout>> {
    let (_, name) = place::split(path);
    if name == OPAQUE {
        return Ok(Some(Whiteout::Opaque));
    }
    let refused = |what| Error::Refused { path: text(path), what };
    match name.strip_prefix(PREFIX) {
        None => Ok(None),
        Some(b"" | b"." | b"..") => Err(refused("a whiteout of a directory from inside")),
        Some(name) => CString::new(name)
            .map(|name| Some(Whiteout::Name(name)))
            .map_err(|_| refused("a name holds a NUL byte")),
    }
}

impl<S: Sink> Apply<'_, S> {
    /// Does what the whiteout in this place asks for.
    pub(super) fn whiteout(&mut self, whiteout: Whiteout, place: &Place) -> Result<()> {
        let (parent, _) = place::split(&place.path);
        match whiteout {
            Whiteout::Opaque => self.clear(parent.to_vec()),
            Whiteout::Name(name) => {
                let path = place::join(parent, name.as_bytes());
                let hidden = Place { dir: place.dir.clone(), name, path };
                match self.hide(&hidden)? {
                    Some(path) => self.clear(path),
                    None => Ok(()),
                }
            }
        }
    }

    /// Removes what lies in a place below the layer. `Some`: it is a directory that has to stay.
    fn hide(&mut self, place: &Place) -> Result<Option<Vec<u8>>> {
        let own = match self.uppers.get(&place.path) {
            Some(Upper::Content(_) | Upper::Other) => return Ok(None),
            Some(Upper::Directory(directory)) => Some(directory),
            None if self.uppers.any_below(&place.path) => None,
            None => {
                self.remove(place)?;
                return Ok(None);
            }
        };
        let dir = place.open_dir().doing("opening directory", &place.path)?;
        match own {
            Some(own) => attributes::keep_xattrs(dir.as_fd(), &own.xattrs, &place.path)?,
            None => attributes::reset_implied(dir.as_fd(), &place.path)?,
        }
        Ok(Some(place.path.clone()))
    }

    /// Removes what lies in a directory below the layer.
    fn clear(&mut self, dir: Vec<u8>) -> Result<()> {
        let mut ahead = vec![dir];
        while let Some(path) = ahead.pop() {
            let dir = self.tree.dir(&path)?;
            let names = names(dir.as_fd()).doing("reading directory", &path)?;
            for name in names {
                let path = place::join(&path, name.as_bytes());
                ahead.extend(self.hide(&Place { dir: dir.clone(), name, path })?);
            }
        }
        Ok(())
    }
}

fn names(dir: impl AsFd) -> rustix::io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let name = entry?.file_name().to_owned();
        if name.as_bytes() != b"." && name.as_bytes() != b".." {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_component_makes_a_whiteout() {
        let name = |name: &str| Some(Whiteout::Name(CString::new(name).unwrap()));
        let cases: &[(&str, Option<Whiteout>)] = &[
            (".wh.a", name("a")),
            ("d/.wh.a", name("a")),
            ("d/.wh..hidden", name(".hidden")),
            ("d/.wh..wh..plnk", name(".wh..plnk")),
            (".wh..wh..opq", Some(Whiteout::Opaque)),
            ("d/.wh..wh..opq", Some(Whiteout::Opaque)),
            (".wh.d/a", None),
            (".wh", None),
            ("a.wh.b", None),
        ];
        for (path, expected) in cases {
            assert_eq!(parse(path.as_bytes()).unwrap(), *expected, "{path}");
        }
        for path in [".wh.", ".wh..", ".wh...", "d/.wh.", "d/.wh..", "d/.wh..."] {
            assert!(parse(path.as_bytes()).is_err(), "{path}");
        }
    }
}
