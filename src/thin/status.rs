//! The pool's status line:
//! `<transaction id> <used>/<total metadata> <used>/<total data> <held root|-> <mode> <discard>
//! <when full> <needs_check|-> <metadata low water>`, or just `Fail`.

use super::table::WhenFull;

/// Whether the pool takes writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    /// `rw`.
    ReadWrite,
    /// `out_of_data_space`: writes that need a block fail or wait; messages are still taken.
    OutOfDataSpace,
    /// `ro`: metadata is full or could not be written; no message is taken.
    ReadOnly,
    /// `Fail`: nothing works until the pool is taken down and loaded again.
    Failed,
}

impl PoolMode {
    /// The kernel's word.
    pub fn as_str(self) -> &'static str {
        match self {
            PoolMode::ReadWrite => "rw",
            PoolMode::OutOfDataSpace => "out_of_data_space",
            PoolMode::ReadOnly => "ro",
            PoolMode::Failed => "Fail",
        }
    }
}

/// What happens to a discard of a thin device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discards {
    /// Freed in the pool and passed down to the data device.
    PassedDown,
    /// Freed in the pool only.
    Kept,
    /// Not even freed in the pool.
    Ignored,
}

/// Used and total blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Blocks {
    /// In use.
    pub used: u64,
    /// All.
    pub total: u64,
}

impl Blocks {
    /// Not in use.
    pub fn free(self) -> u64 {
        self.total.saturating_sub(self.used)
    }
}

/// A pool's state at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolStatus {
    /// The number that only `set_transaction_id` changes.
    pub transaction_id: u64,
    /// Metadata blocks, 4 KiB each.
    pub metadata: Blocks,
    /// Data blocks, of the pool's block size.
    pub data: Blocks,
    /// Block of the reserved metadata snapshot's superblock.
    pub held_root: Option<u64>,
    /// Whether it takes writes.
    pub mode: PoolMode,
    /// What becomes of discards.
    pub discards: Discards,
    /// What becomes of writes when it is full.
    pub when_full: WhenFull,
    /// The metadata must be checked before the pool may be written again.
    pub needs_check: bool,
    /// The kernel raises an event below so many free metadata blocks.
    pub metadata_low_water: Option<u64>,
}

/// A status line that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the pool's status line {0:?} is not understood")]
pub struct BadStatus(String);

impl PoolStatus {
    const FAILED: Self = Self {
        transaction_id: 0,
        metadata: Blocks { used: 0, total: 0 },
        data: Blocks { used: 0, total: 0 },
        held_root: None,
        mode: PoolMode::Failed,
        discards: Discards::Ignored,
        when_full: WhenFull::Queue,
        needs_check: false,
        metadata_low_water: None,
    };

    /// Reads a status line.
    pub fn parse(line: &str) -> Result<Self, BadStatus> {
        Self::words(line).ok_or_else(|| BadStatus(line.to_owned()))
    }

    fn words(line: &str) -> Option<Self> {
        if line.trim() == "Fail" {
            return Some(Self::FAILED);
        }
        let mut words = line.split_ascii_whitespace();
        Some(Self {
            transaction_id: words.next()?.parse().ok()?,
            metadata: blocks(words.next()?)?,
            data: blocks(words.next()?)?,
            held_root: match words.next()? {
                "-" => None,
                block => Some(block.parse().ok()?),
            },
            mode: match words.next()? {
                "rw" => PoolMode::ReadWrite,
                "out_of_data_space" => PoolMode::OutOfDataSpace,
                "ro" => PoolMode::ReadOnly,
                _ => return None,
            },
            discards: match words.next()? {
                "discard_passdown" => Discards::PassedDown,
                "no_discard_passdown" => Discards::Kept,
                "ignore_discard" => Discards::Ignored,
                _ => return None,
            },
            // Kernels before 3.11 end the line here or after the next word.
            when_full: match words.next().unwrap_or("queue_if_no_space") {
                "error_if_no_space" => WhenFull::Error,
                "queue_if_no_space" => WhenFull::Queue,
                _ => return None,
            },
            needs_check: words.next() == Some("needs_check"),
            metadata_low_water: words.next().and_then(|word| word.parse().ok()),
        })
    }

    /// Whether the last message has become durable and the next one will be taken.
    pub fn is_healthy(&self) -> bool {
        !self.needs_check && matches!(self.mode, PoolMode::ReadWrite | PoolMode::OutOfDataSpace)
    }

    /// Mode and flag in the kernel's words.
    pub fn condition(&self) -> String {
        let flag = if self.needs_check { " needs_check" } else { "" };
        format!("{}{flag}", self.mode.as_str())
    }
}

/// `used/total`.
fn blocks(word: &str) -> Option<Blocks> {
    let (used, total) = word.split_once('/')?;
    Some(Blocks { used: used.parse().ok()?, total: total.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: PoolStatus = PoolStatus {
        transaction_id: 7,
        metadata: Blocks { used: 45, total: 16384 },
        data: Blocks { used: 12, total: 65536 },
        held_root: None,
        mode: PoolMode::ReadWrite,
        discards: Discards::PassedDown,
        when_full: WhenFull::Error,
        needs_check: false,
        metadata_low_water: Some(1024),
    };

    #[test]
    fn every_form_of_the_status_line_is_read() {
        let line = |tail: &str| format!("7 45/16384 12/65536 {tail}");
        let cases = [
            (line("- rw discard_passdown error_if_no_space - 1024"), SOUND),
            (
                line("99 ro no_discard_passdown queue_if_no_space needs_check 1024"),
                PoolStatus {
                    held_root: Some(99),
                    mode: PoolMode::ReadOnly,
                    discards: Discards::Kept,
                    when_full: WhenFull::Queue,
                    needs_check: true,
                    ..SOUND
                },
            ),
            (
                line("- out_of_data_space ignore_discard error_if_no_space - 1024 "),
                PoolStatus { mode: PoolMode::OutOfDataSpace, discards: Discards::Ignored, ..SOUND },
            ),
            (
                line("- rw discard_passdown queue_if_no_space"),
                PoolStatus { when_full: WhenFull::Queue, metadata_low_water: None, ..SOUND },
            ),
            ("Fail".to_owned(), PoolStatus::FAILED),
        ];
        for (line, expected) in cases {
            assert_eq!(PoolStatus::parse(&line), Ok(expected), "{line}");
        }
    }

    #[test]
    fn a_line_that_is_not_understood_is_an_error() {
        for line in ["", "Error", "1 2 3", "7 45/16384 12/65536 - sideways discard_passdown"] {
            assert!(PoolStatus::parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn only_a_pool_that_takes_messages_is_healthy() {
        let with = |mode, needs_check| PoolStatus { mode, needs_check, ..SOUND };
        assert!(with(PoolMode::ReadWrite, false).is_healthy());
        assert!(with(PoolMode::OutOfDataSpace, false).is_healthy());
        assert!(!with(PoolMode::ReadWrite, true).is_healthy());
        assert!(!with(PoolMode::ReadOnly, false).is_healthy());
        assert!(!with(PoolMode::Failed, false).is_healthy());
    }
}
