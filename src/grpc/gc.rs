//! Collections, for the admin service.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::Context;
use super::proto::thinfs::admin::v1::{GcItem, GcReply, GcRequest, GcStatus};
use crate::gc::{Item, Report, Totals};
use crate::snapshot::Result;
use crate::volume;

/// Between two looks at what is still to be destroyed.
const LOOK: Duration = Duration::from_millis(50);
/// So many looks in a row at which all that is left fails are enough.
const PASSES: u32 = 10;

/// Collects, then has the reaper destroy what was removed. A dry run does neither.
pub(super) fn collect(
    context: &Context,
    request: GcRequest,
    cancel: &AtomicBool,
) -> Result<GcReply> {
    let report = context.collector.collect(request.dry_run)?;
    let mut reply = from_report(report);
    if request.dry_run {
        return Ok(reply);
    }
    (context.settle)();
    let reaped = context.snapshots.cleanup()?;
    (reply.destroyed, reply.waiting) = (reaped.destroyed as u64, reaped.waiting as u64);
    reply.failed.extend(reaped.failed);
    if request.wait {
        wait_for_reaper(context, cancel, &mut reply)?;
    }
    Ok(reply)
}

/// Until nothing is left that was removed, or only what fails each time: an operator must see to that.
fn wait_for_reaper(context: &Context, cancel: &AtomicBool, reply: &mut GcReply) -> Result<()> {
    let mut failed_passes = 0;
    reply.waiting = 0;
    while context.snapshots.pending()? > 0 {
        if cancel.load(Ordering::Relaxed) {
            return Err(volume::Error::Cancelled("waiting for the reaper".to_owned()).into());
        }
        std::thread::sleep(LOOK);
        let reaped = context.snapshots.cleanup()?;
        reply.destroyed += reaped.destroyed as u64;
        let stuck = reaped.destroyed == 0 && reaped.waiting == 0 && !reaped.failed.is_empty();
        failed_passes = if stuck { failed_passes + 1 } else { 0 };
        if failed_passes == PASSES {
            reply.failed.extend(reaped.failed);
            break;
        }
    }
    reply.failed.sort();
    reply.failed.dedup();
    Ok(())
}

fn from_report(report: Report) -> GcReply {
    GcReply {
        destroyed: 0,
        waiting: 0,
        failed: report.failed,
        collected: report.collected.into_iter().map(item).collect(),
        stayed: report.stayed.into_iter().map(item).collect(),
        expired: report.expired,
        mark_us: micros(report.mark),
        sweep_us: micros(report.sweep),
    }
}

fn item(item: Item) -> GcItem {
    GcItem {
        namespace: item.namespace.as_str().to_owned(),
        kind: item.resource.kind.to_owned(),
        id: item.resource.id,
        why: item.why,
    }
}

/// The statistics of all runs.
pub(super) fn status(totals: Totals) -> GcStatus {
    GcStatus {
        runs: totals.runs,
        failed: totals.failed,
        collected: totals
            .collected
            .into_iter()
            .map(|(kind, count)| (kind.to_owned(), count))
            .collect(),
        expired: totals.expired,
        mark_us: micros(totals.mark),
        sweep_us: micros(totals.sweep),
        longest_us: micros(totals.longest),
        last: totals.last.map(Into::into),
        last_mark_us: micros(totals.last_took.0),
        last_sweep_us: micros(totals.last_took.1),
        stayed: totals.stayed,
        error: totals.error.unwrap_or_default(),
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
