//! Snapshots that somebody has mounted elsewhere: held as long as the mount is there.

use std::collections::HashMap;
use std::io;

use parking_lot::Mutex;

use super::doomed::Doomed;
use super::source::{Found, Kind, Resource, Root, Source};
use crate::snapshot::{Error, Result};
use crate::types::Namespace;

/// A snapshot, or what is made of one, that is mounted, and where.
pub type Mount = (Namespace, Resource, String);

/// Asks the kernel for the mounts that were made of what was handed out.
pub type ListMounts = Box<dyn Fn() -> io::Result<Vec<Mount>> + Send + Sync>;

/// Mounts of snapshots, as of the run's begin. Whoever mounts one that nothing else holds, while a
/// run is under way, is as late as one who comes after it.
pub struct Mounted {
    list: ListMounts,
    now: Mutex<std::result::Result<HashMap<Namespace, Vec<Root>>, String>>,
}

impl Mounted {
    /// Mounts as `list` tells of them.
    pub fn new(list: ListMounts) -> Self {
        Self { list, now: Mutex::new(Ok(HashMap::new())) }
    }

    fn look(&self) -> std::result::Result<HashMap<Namespace, Vec<Root>>, String> {
        let mut held: HashMap<Namespace, Vec<Root>> = HashMap::new();
        for (ns, resource, place) in (self.list)().map_err(|error| error.to_string())? {
            held.entry(ns)
                .or_default()
                .push(Root { resource, holder: format!("a mount at {place}") });
        }
        Ok(held)
    }
}

impl Source for Mounted {
    fn kind(&self) -> Kind {
        "mount"
    }

    fn begin(&self) {
        *self.now.lock() = self.look();
    }

    fn may_have_garbage(&self, _: &Namespace) -> Result<bool> {
        Ok(false)
    }

    fn scan(&self, _: &Namespace, _: &mut dyn FnMut(Found)) -> Result<()> {
        Ok(())
    }

    /// Mounts hold, and are no resources themselves.
    fn can_trace(&self, _: &Namespace) -> bool {
        true
    }

    /// When the kernel doesn't say what is mounted, nothing may be collected.
    fn roots(&self, ns: &Namespace) -> Result<Vec<Root>> {
        match &*self.now.lock() {
            Ok(held) => Ok(held.get(ns).cloned().unwrap_or_default()),
            Err(error) => {
                Err(Error::FailedPrecondition(format!("cannot see what is mounted: {error}")))
            }
        }
    }

    fn exists(&self, _: &Namespace, _: &str) -> Result<Option<bool>> {
        Ok(None)
    }

    fn remove(&self, _: &Namespace, _: &mut Doomed<'_>) {}
}
