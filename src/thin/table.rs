//! Tables of one target, as the kernel takes and shows them.

use super::dm::DevNum;
use super::{Sectors, ThinId};

/// A table with one target that begins at sector 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Length of the device.
    pub length: Sectors,
    /// The target: `thin-pool` or `thin`.
    pub target: String,
    /// The target's parameters.
    pub parameters: String,
}

impl Table {
    /// A table from its parts.
    pub fn new(length: Sectors, target: &str, parameters: &str) -> Self {
        Self { length, target: target.to_owned(), parameters: parameters.trim().to_owned() }
    }

    /// The table of a thin device.
    pub fn thin(length: Sectors, pool: DevNum, id: ThinId) -> Self {
        Self::new(length, "thin", &format!("{pool} {id}"))
    }

    /// The form that the ioctl takes.
    pub(super) fn line(&self) -> (u64, u64, String, String) {
        (0, self.length.0, self.target.clone(), self.parameters.clone())
    }
}

/// What a thin-pool does with writes that need a block when there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// Fails them: `error_if_no_space`.
    Error,
    /// Lets them wait until the pool grows: `queue_if_no_space`.
    Queue,
}

/// The table of a thin-pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolTable {
    /// Length of the data device that the pool uses.
    pub length: Sectors,
    /// The device with the metadata.
    pub metadata: DevNum,
    /// The device with the data.
    pub data: DevNum,
    /// Sectors in a data block.
    pub block: Sectors,
    /// An event is raised when fewer data blocks are free.
    pub low_water_blocks: u64,
    /// Refuse or queue.
    pub when_full: WhenFull,
}

impl PoolTable {
    /// The table as the kernel takes it. New blocks are not zeroed: no filesystem shows what it
    /// has not written.
    pub fn table(&self) -> Table {
        let mut features = vec!["skip_block_zeroing"];
        if self.when_full == WhenFull::Error {
            features.push("error_if_no_space");
        }
        let parameters = format!(
            "{} {} {} {} {} {}",
            self.metadata,
            self.data,
            self.block,
            self.low_water_blocks,
            features.len(),
            features.join(" ")
        );
        Table::new(self.length, "thin-pool", &parameters)
    }

    /// Reads a pool's table; `None` if it is none.
    pub fn parse(table: &Table) -> Option<Self> {
        let mut words = table.parameters.split_ascii_whitespace();
        let pool = Self {
            length: table.length,
            metadata: devnum(words.next()?)?,
            data: devnum(words.next()?)?,
            block: Sectors(words.next()?.parse().ok()?),
            low_water_blocks: words.next()?.parse().ok()?,
            when_full: WhenFull::Queue,
        };
        let refuses = words.any(|word| word == "error_if_no_space");
        let when_full = if refuses { WhenFull::Error } else { WhenFull::Queue };
        (table.target == "thin-pool").then_some(Self { when_full, ..pool })
    }
}

/// `major:minor`.
fn devnum(word: &str) -> Option<DevNum> {
    let (major, minor) = word.split_once(':')?;
    Some(DevNum { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_table_reads_back_as_it_was_written() {
        for when_full in [WhenFull::Error, WhenFull::Queue] {
            let pool = PoolTable {
                length: Sectors(8_388_608),
                metadata: DevNum { major: 98, minor: 0 },
                data: DevNum { major: 98, minor: 16 },
                block: Sectors(128),
                low_water_blocks: 1024,
                when_full,
            };
            assert_eq!(PoolTable::parse(&pool.table()), Some(pool));
        }
    }

    #[test]
    fn other_tables_are_no_pool() {
        for (target, parameters) in [
            ("linear", "7:0 7:1 128 0 0"),
            ("thin-pool", "7:0 7:1"),
            ("thin-pool", "/dev/a /dev/b 128 0 0"),
        ] {
            assert_eq!(
                PoolTable::parse(&Table::new(Sectors(8), target, parameters)),
                None,
                "{parameters}"
            );
        }
    }
}
