//! What tells the pool's data device from others.
//!
//! A data device has no header: device-mapper takes any that is large enough, and every volume reads what stands there.
//! So one thin device with one block holds a token that the pool's record knows, and the number of the run that wrote
//! it. A start looks for it before the pool is made active, in the block to which the metadata maps it, so that nothing
//! has been changed when a data device is refused:
//!
//! ```text
//! token and run there        the data device of this pool, as it was left
//! token, but an older run    a copy from before the last start: refused
//! no token, or another one   another pool's data device, or a new one: refused
//! no such thin device        nothing can be told; the transaction id decides whether the metadata is the right one
//! ```
//! Each start writes the next run, then records it, into the other one of two slots: torn or killed in between, the slot
//! of the run before is whole, and a run above the recorded one is welcome. Made with the first volume: thin device,
//! token, record; a crash in between leaves an id that nobody names, and a record without a witness asks for none.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;

use super::ThinBackend;
use super::devices::Devices;
use super::error::{Refusal, backend, io, metadata_error, pool_error, refused};
use super::ledger::Book;
use crate::crashpoint::{Step, around};
use crate::sys::direct::{self, BLOCK_SIZE, Block};
use crate::thin::metadata::View;
use crate::thin::status::PoolMode;
use crate::thin::{Sectors, ThinId};
use crate::types;
use crate::volume::Result;

/// What a slot begins with.
const MAGIC: &[u8; 16] = b"thinfs witness 1";
/// Where the token stands: as many bytes as a UUID has in words.
const TOKEN: std::ops::Range<usize> = 16..52;
/// Where the number of the run stands.
const RUN: usize = 56;
/// Where the checksum of all before it stands.
const SUM: usize = 64;
/// Two, for one may be torn.
const SLOTS: u64 = 2;
/// Free data blocks that are needed for making one, with room to spare for whoever writes meanwhile.
const ROOM: u64 = 16;

/// What a slot says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Slot {
    token: String,
    run: u64,
}

impl Slot {
    fn read(block: &Block) -> Option<Self> {
        let bytes = block.bytes();
        let whole = bytes.starts_with(MAGIC) && block.u32(SUM) == crc32c::crc32c(&bytes[..SUM]);
        let token = whole.then(|| String::from_utf8(bytes[TOKEN].to_vec()))?.ok()?;
        Some(Self { token, run: block.u64(RUN) })
    }

    fn block(&self) -> Box<Block> {
        let mut block = Box::new(Block::zeroed());
        block.put(0, MAGIC);
        block.put(TOKEN.start, &self.token.as_bytes()[..TOKEN.len().min(self.token.len())]);
        block.set_u64(RUN, self.run);
        let sum = crc32c::crc32c(&block.bytes()[..SUM]);
        block.set_u32(SUM, sum);
        block
    }

    /// Which slot is this run's.
    fn number(&self) -> u64 {
        self.run % SLOTS
    }
}

/// What was found where the witness should stand.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Found {
    /// It, as the record knows it or from a run whose record was lost in a crash.
    Ours,
    /// Ours, from an earlier run.
    Older(u64),
    /// Another pool's.
    Others(String),
    /// None at all.
    Nothing,
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ours => write!(f, "the witness"),
            Self::Older(run) => write!(f, "the witness of run {run}"),
            Self::Others(token) => write!(f, "the witness {token} of another pool"),
            Self::Nothing => write!(f, "no witness at all"),
        }
    }
}

/// Compares what stands on the data device with the record. Reads only. `data`: its path, and what a person knows it by.
/// `force`: goes on, and says so.
pub(super) fn check(
    record: &types::Pool,
    view: &View<'_>,
    (data, known_as): (&Path, &Path),
    force: bool,
) -> Result<()> {
    let Some(expected) = &record.witness else { return Ok(()) };
    let Some(thin) = ThinId::new(expected.thin_id) else { return Ok(()) };
    let place = view.data_block(thin, 0).map_err(|e| {
        metadata_error("looking up where the witness of the pool's data device stands", e)
    })?;
    let Some(place) = place else { return Ok(()) };
    let first = place.saturating_mul(view.block_size().bytes() / BLOCK_SIZE as u64);
    let found = look(data, first, expected).map_err(|e| {
        io(format!("reading the witness on the pool's data device {}", known_as.display()), e)
    })?;
    if found == Found::Ours {
        return Ok(());
    }
    if force {
        tracing::warn!(
            device = %known_as.display(),
            expected = expected.token,
            run = expected.run,
            %found,
            "adopting by force a data device that is not this pool's, or an older copy: what volumes have on it may be \
             missing or damaged"
        );
        return Ok(());
    }
    let (device, token) = (known_as.to_owned(), expected.token.clone());
    match found {
        Found::Older(run) => {
            refused(Refusal::OlderData { device, token, run, expected: expected.run })
        }
        other => refused(Refusal::OtherData { device, token, found: other.to_string() }),
    }
}

/// Reads both slots. What is beyond the device's end is not there.
fn look(data: &Path, first: u64, expected: &types::Witness) -> io::Result<Found> {
    let device = direct::open(data)?;
    let mut slots = Vec::new();
    for number in 0..SLOTS {
        match direct::read(&device, first.saturating_add(number)) {
            Ok(block) => slots.extend(Slot::read(&block)),
            Err(e) if is_beyond(&e) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(judge(&slots, expected))
}

fn is_beyond(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput)
}

fn judge(slots: &[Slot], expected: &types::Witness) -> Found {
    let ours = slots.iter().filter(|slot| slot.token == expected.token);
    match (ours.map(|slot| slot.run).max(), slots.first()) {
        (Some(run), _) if run >= expected.run => Found::Ours,
        (Some(run), _) => Found::Older(run),
        (None, Some(other)) => Found::Others(other.token.clone()),
        (None, None) => Found::Nothing,
    }
}

/// A new run begins: on the device, then in the record. Best effort: without it, a copy from before this start passes for
/// the device.
pub(super) fn renew(devices: &Devices, book: &Book, size: Sectors) {
    let Some(witness) = book.record().witness else { return };
    if let Err(error) = try_renew(devices, book, size, witness) {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, "the witness on the pool's data device could not be renewed");
    }
}

fn try_renew(devices: &Devices, book: &Book, size: Sectors, witness: types::Witness) -> Result<()> {
    let Some(thin) = ThinId::new(witness.thin_id) else { return Ok(()) };
    let next = types::Witness { run: witness.run + 1, ..witness };
    write(devices, thin, size, &next, Step::WitnessRenew)?;
    book.change(|record| record.witness = Some(next))
}

/// Writes a run's slot; durable when it returns, with the block's mapping.
fn write(
    devices: &Devices,
    thin: ThinId,
    size: Sectors,
    witness: &types::Witness,
    step: Step,
) -> Result<()> {
    let slot = Slot { token: witness.token.clone(), run: witness.run };
    let work = |path: &Path| around(step, || direct::write(path, slot.number(), &slot.block()));
    let context = "writing the witness on the pool's data device";
    let written = devices.with_device(thin, size, work).map_err(|e| backend(context, e))?;
    written.map_err(|e| io(context, e))
}

impl ThinBackend {
    /// Makes the witness, if there is none and room for it; called by who makes a volume. Best effort: without it,
    /// all works but for the detection of another data device.
    pub(super) fn keep_witness(&self) {
        if self.witnessed.load(Ordering::Acquire) {
            return;
        }
        let Some(_one) = self.witness.try_lock() else { return };
        match self.make_witness() {
            Ok(made) => self.witnessed.store(made, Ordering::Release),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the witness on the pool's data device could not be made");
            }
        }
    }

    /// Whether there is one now.
    fn make_witness(&self) -> Result<bool> {
        if self.book.record().witness.is_some() {
            return Ok(true);
        }
        let status =
            self.pool.status().map_err(|e| pool_error("looking for room in the pool", e))?;
        let room = status.data.free() >= ROOM;
        if status.mode != PoolMode::ReadWrite || status.needs_check || !room {
            return Ok(false);
        }
        let token = token().map_err(|e| io("making a token for the pool's data device", e))?;
        let made = self.create_with(|thin| self.pool.create_thin(thin))?;
        let Some(thin) = made else { return Ok(false) };
        let witness = types::Witness { thin_id: thin.get(), token, run: 1 };
        let size = self.pool.table().block;
        if let Err(error) = write(&self.devices, thin, size, &witness, Step::WitnessMake) {
            self.devices.undo(&self.pool, thin);
            return Err(error);
        }
        self.book.change(|record| record.witness = Some(witness))?;
        Ok(true)
    }
}

/// A UUID in words.
fn token() -> io::Result<String> {
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    let uuid = uuid.trim().to_owned();
    if uuid.len() == TOKEN.len() { Ok(uuid) } else { Err(io::ErrorKind::InvalidData.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(token: &str, run: u64) -> Slot {
        Slot { token: token.to_owned(), run }
    }

    #[test]
    fn a_slot_reads_as_it_was_written_and_a_torn_one_not_at_all() {
        let written = slot(&token().unwrap(), 7);
        let mut block = written.block();
        assert_eq!(Slot::read(&block), Some(written));
        block.set_u64(RUN, 8);
        assert_eq!(Slot::read(&block), None);
        assert_eq!(Slot::read(&Block::zeroed()), None);
        assert_eq!((slot("t", 1).number(), slot("t", 2).number()), (1, 0), "never the last one's");
    }

    #[test]
    fn a_run_that_was_not_recorded_is_welcome_and_an_older_one_is_not() {
        let expected = types::Witness { thin_id: 1, token: "ours".to_owned(), run: 5 };
        let cases = [
            (vec![slot("ours", 5), slot("ours", 4)], Found::Ours),
            (vec![slot("ours", 5), slot("ours", 6)], Found::Ours),
            (vec![slot("ours", 5)], Found::Ours),
            (vec![slot("ours", 3), slot("ours", 4)], Found::Older(4)),
            (vec![slot("theirs", 5), slot("theirs", 6)], Found::Others("theirs".to_owned())),
            (vec![], Found::Nothing),
        ];
        for (slots, found) in cases {
            assert_eq!(judge(&slots, &expected), found, "{slots:?}");
        }
    }
}
