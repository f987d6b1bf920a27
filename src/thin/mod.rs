//! The pool of thin devices, as device-mapper has it: messages, tables, status lines, device
//! nodes, and the pool's metadata read in process.
//!
//! Knows thin ids, sectors and device-mapper names. Must not know a snapshot, a volume, a key or
//! RocksDB: which id belongs to whom is said above, in [`crate::volume`].
//!
//! ```text
//! dm        the ioctls, with errors that keep their errno
//! node      device numbers → block device nodes
//! status    the pool's status line
//! table     the tables of a pool and of a thin device
//! pool      messages to one pool, each followed by a look at its status
//! metadata  the pool's two btrees, read from a metadata snapshot
//! simulated (tests only) a pool in memory with the kernel's semantics, where messages go in tests of crashes
//! ```
//!
//! What is assumed of the kernel: a message is atomic; one that succeeds is durable if the pool's
//! status afterwards is `rw` without needs_check (the kernel ignores the result of the metadata
//! commit, but turns the pool read-only when it fails). Blocks reachable from a reserved metadata
//! snapshot don't change until it is released.

pub mod dm;
pub mod metadata;
pub mod node;
pub mod pool;
#[cfg(test)]
pub(crate) mod simulated;
pub mod status;
pub mod table;

use std::fmt;

/// The id of a thin device inside its pool: 24 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ThinId(u32);

impl ThinId {
    /// One more than the largest id.
    pub const END: u32 = 1 << 24;

    /// Checks and wraps an id.
    pub fn new(id: u32) -> Option<Self> {
        (id < Self::END).then_some(Self(id))
    }

    /// The id as a number below [`ThinId::END`].
    pub fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for ThinId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A length in sectors of 512 bytes: device-mapper's unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sectors(pub u64);

impl Sectors {
    /// Bytes in a sector.
    pub const SIZE: u64 = 512;

    /// The whole sectors in `bytes`.
    pub fn in_bytes(bytes: u64) -> Self {
        Self(bytes / Self::SIZE)
    }

    /// The length in bytes.
    pub fn bytes(self) -> u64 {
        self.0 * Self::SIZE
    }
}

impl fmt::Display for Sectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thin_ids_have_24_bits() {
        assert_eq!(ThinId::new(16_777_215).map(ThinId::get), Some(16_777_215));
        assert_eq!(ThinId::new(16_777_216), None);
    }
}
