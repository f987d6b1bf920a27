//! Who we are on this machine: a random number per root, in the names of all our devices, so that
//! two roots on one machine don't clash, and a root that is moved finds its devices again.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use super::error::io;
use crate::crashpoint::{Step, around};
use crate::thin::ThinId;
use crate::volume::Result;

/// A root's identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity(pub(super) u32);

impl Identity {
    /// Reads the identity in the private directory, or makes one there.
    pub(super) fn of(private: &Path) -> Result<Self> {
        let path = private.join("identity");
        match fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text).ok_or_else(|| {
                let why = io::Error::new(io::ErrorKind::InvalidData, "not 8 hexadecimal digits");
                self::io(format!("reading the root's identity in {}", path.display()), why)
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Self::make(private, &path),
            Err(e) => {
                Err(self::io(format!("reading the root's identity in {}", path.display()), e))
            }
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let digits = text.trim();
        (digits.len() == 8).then(|| u32::from_str_radix(digits, 16).ok().map(Self))?
    }

    fn make(private: &Path, path: &Path) -> Result<Self> {
        let attempt = || -> io::Result<Self> {
            let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
            let digits = uuid.get(..8).ok_or(io::ErrorKind::InvalidData)?;
            let made = Self::parse(digits).ok_or(io::ErrorKind::InvalidData)?;
            // Beside and renamed in: a crash leaves a whole file, or none.
            let beside = private.join("identity.new");
            let mut file = fs::File::create(&beside)?;
            writeln!(file, "{digits}")?;
            file.sync_all()?;
            fs::rename(&beside, path)?;
            fs::File::open(private)?.sync_all()?;
            Ok(made)
        };
        around(Step::Identity, attempt)
            .map_err(|e| self::io(format!("making the root's identity in {}", path.display()), e))
    }

    /// What the names of all our devices begin with.
    pub(super) fn prefix(self) -> String {
        format!("thinfs-{:08x}", self.0)
    }

    /// The name of the pool, where it is we who make it.
    pub(super) fn pool_name(self) -> String {
        format!("{}-pool", self.prefix())
    }

    /// The name of a thin device while it is active.
    pub(super) fn thin_name(self, thin: ThinId) -> String {
        format!("{}-t{thin}", self.prefix())
    }

    /// The name of a thin device while it is handed out to others.
    pub(super) fn handout_name(self, thin: ThinId) -> String {
        format!("{}-b{thin}", self.prefix())
    }

    /// The thin device that has this name, if it is one of ours that are handed out.
    pub(super) fn handed_out(self, name: &str) -> Option<ThinId> {
        self.id_in(name, "-b")
    }

    /// The thin device that has this name, if it is one of ours.
    pub(super) fn thin_of(self, name: &str) -> Option<ThinId> {
        self.id_in(name, "-t")
    }

    fn id_in(self, name: &str, mark: &str) -> Option<ThinId> {
        let id = name.strip_prefix(&self.prefix())?.strip_prefix(mark)?;
        let digits = !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| id.parse().ok()).flatten().and_then(ThinId::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_made_once_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let made = Identity::of(dir.path()).unwrap();
        assert_eq!(Identity::of(dir.path()).unwrap(), made);
        fs::write(dir.path().join("identity"), "nonsense\n").unwrap();
        assert!(Identity::of(dir.path()).is_err());
    }

    #[test]
    fn only_our_own_thin_devices_are_taken_for_ours() {
        let identity = Identity(0x1a2b);
        assert_eq!(identity.thin_name(ThinId::new(7).unwrap()), "thinfs-00001a2b-t7");
        let cases = [
            ("thinfs-00001a2b-t7", true),
            ("thinfs-00001a2b-t", false),
            ("thinfs-00001a2b-t7x", false),
            ("thinfs-00001a2b-pool", false),
            ("thinfs-00001a2b-b7", false),
            ("thinfs-00001a2c-t7", false),
        ];
        assert_eq!(identity.handed_out("thinfs-00001a2b-b7"), ThinId::new(7));
        for other in ["thinfs-00001a2b-t7", "thinfs-00001a2b-b", "thinfs-00001a2b-b+7"] {
            assert_eq!(identity.handed_out(other), None, "{other}");
        }
        for (name, ours) in cases {
            assert_eq!(identity.thin_of(name).is_some(), ours, "{name}");
        }
    }
}
