//! Subcommands about the daemon as a whole.

use super::args::StatusArgs;
use super::client::Client;
use super::error::{Asked, Result};
use super::json;
use super::output::{Out, age, number, size, text};
use super::progress::during;
use crate::grpc::proto::thinfs::admin::v1 as admin;

pub(super) async fn status(args: StatusArgs, client: &mut Client, out: &mut Out<'_>) -> Result<()> {
    let reply = during(|| "asking".to_owned(), client.admin.status(admin::StatusRequest {})).await;
    let status = reply.asked(|| "show the status".to_owned())?.into_inner();
    if args.fuse {
        print_fuse(status.fuse.unwrap_or_default(), out)?;
    } else {
        print_status(status, out)?;
    }
    Ok(())
}

/// Kinds that never occurred are left out of the table; in JSON they stand with 0.
pub(super) fn print_fuse(fuse: admin::FuseStatus, out: &mut Out) -> std::io::Result<()> {
    if out.json {
        return out.object(&json::Fuse::from(fuse));
    }
    let asked = fuse.requests.iter().filter(|request| request.count > 0);
    let rows = asked.map(|request| [request.name.clone(), request.count.to_string()]);
    out.table([text("REQUEST"), number("COUNT")], rows.collect())?;
    out.line("")?;
    out.fields(&[
        ("Somebody waited for", fuse.synchronous.to_string()),
        ("In waiting threads", fuse.waited.to_string()),
        ("Passthrough opens", fuse.passthrough.to_string()),
    ])
}

pub(super) fn print_status(status: admin::StatusReply, out: &mut Out) -> std::io::Result<()> {
    if out.json {
        return out.object(&json::Status::from(status));
    }
    out.fields(&fields(&status, out.now))?;
    let namespaces = status.namespaces.iter().map(|ns| {
        [ns.name.clone(), ns.active.to_string(), ns.view.to_string(), ns.committed.to_string()]
    });
    blank_before(!status.namespaces.is_empty(), out)?;
    let columns = [text("NAMESPACE"), number("ACTIVE"), number("VIEW"), number("COMMITTED")];
    out.table(columns, namespaces.collect())?;
    let volumes = status.volumes.iter().map(|volume| {
        let access = if volume.read_only { "ro" } else { "rw" };
        [
            volume.id.to_string(),
            access.to_owned(),
            volume.pins.to_string(),
            volume.writers.to_string(),
        ]
    });
    blank_before(!status.volumes.is_empty(), out)?;
    out.table(
        [number("VOLUME"), text("ACCESS"), number("PINS"), number("WRITERS")],
        volumes.collect(),
    )?;
    let removed = status.reaper.iter().map(|pending| {
        let reason = if pending.reason.is_empty() { "-" } else { &pending.reason };
        [
            pending.volume.to_string(),
            pending.state.clone(),
            pending.tries.to_string(),
            reason.to_owned(),
        ]
    });
    blank_before(!status.reaper.is_empty(), out)?;
    out.table(
        [number("REMOVED"), text("STATE"), number("TRIES"), text("REASON")],
        removed.collect(),
    )
}

fn blank_before(something: bool, out: &mut Out) -> std::io::Result<()> {
    if something { out.line("") } else { Ok(()) }
}

fn fields(status: &admin::StatusReply, now: std::time::SystemTime) -> Vec<(&str, String)> {
    let since = status
        .started
        .map(|started| format!(", running for {}", age(started, now)))
        .unwrap_or_default();
    let capacity = status.capacity;
    let space =
        capacity.map_or("unknown, see the daemon's log".to_owned(), |c| share(c.used, c.total));
    let mut fields = vec![
        ("Daemon", format!("thinfs {}, pid {}{since}", status.version, status.pid)),
        ("Root", status.root.clone()),
        ("Mount", status.mount.clone()),
        ("Socket", status.socket.clone()),
        ("containerd", format!("namespace {}", status.containerd_namespace)),
        ("Backend", status.backend.clone()),
        ("Space", space),
    ];
    if let Some(capacity) = capacity.filter(|capacity| capacity.most > capacity.total) {
        fields.push(("Grows to", size(capacity.most)));
    }
    if let Some(capacity) = capacity.filter(|capacity| capacity.metadata_total > 0) {
        fields.push(("Metadata", share(capacity.metadata_used, capacity.metadata_total)));
    }
    fields.push(("To reclaim", status.pending.to_string()));
    fields.extend(status.gc.as_ref().map(|gc| ("Collected", collected(gc, now))));
    if !status.faulty.is_empty() {
        fields
            .push(("Set aside", format!("{} thin ids, see `thinfs faulty`", status.faulty.len())));
    }
    let activity = status.activity.unwrap_or_default();
    let since = format!("{} since the start, {} failed", activity.activations, activity.failures);
    fields.push(("Activated", format!("{} (activations: {since})", status.volumes.len())));
    fields.extend(status.details.iter().map(|detail| (detail.name.as_str(), detail.value.clone())));
    fields
}

fn collected(gc: &admin::GcStatus, now: std::time::SystemTime) -> String {
    let count: u64 = gc.collected.values().sum();
    let last = gc.last.map(|last| format!(", the last {} ago", age(last, now))).unwrap_or_default();
    let (mark, sweep) = (gc.last_mark_us as f64 / 1e3, gc.last_sweep_us as f64 / 1e3);
    let took = format!("mark {mark:.1} ms, sweep {sweep:.1} ms");
    let trouble = match (gc.error.as_str(), gc.stayed) {
        ("", 0) => String::new(),
        ("", stayed) => format!("; {stayed} were busy"),
        (error, _) => format!("; it failed: {error}"),
    };
    format!("{count} in {} runs{last} ({took}){trouble}", gc.runs)
}

fn share(used: u64, total: u64) -> String {
    let percent = (used as u128 * 100).checked_div(total as u128).unwrap_or(0);
    format!("{} of {} used ({percent} %)", size(used), size(total))
}
