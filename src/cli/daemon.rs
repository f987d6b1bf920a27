//! Subcommands about the daemon as a whole.

use super::client::Client;
use super::error::{Asked, Error, Result};
use super::json;
use super::output::{Out, age, number, size, text};
use super::progress::during;
use crate::grpc::proto::thinfs::admin::v1 as admin;

pub(super) async fn gc(client: &mut Client, out: &mut Out<'_>) -> Result<()> {
    let reply =
        during(|| "reclaiming space".to_owned(), client.admin.gc(admin::GcRequest {})).await;
    let reply = reply.asked(|| "reclaim space".to_owned())?.into_inner();
    print_gc(&reply, out)?;
    Ok(())
}

pub(super) fn print_gc(reply: &admin::GcReply, out: &mut Out) -> std::io::Result<()> {
    let admin::GcReply { destroyed, waiting, failed } = reply;
    if out.json {
        return out.object(&json::Gc { destroyed: *destroyed, waiting: *waiting, failed });
    }
    out.line(format!("{destroyed} destroyed, {waiting} still in use, {} failed", failed.len()))?;
    failed.iter().try_for_each(|line| out.line(format!("failed: {line}")))
}

pub(super) async fn check(client: &mut Client, out: &mut Out<'_>) -> Result<()> {
    let reply = during(|| "checking".to_owned(), client.admin.check(admin::CheckRequest {})).await;
    let problems = reply.asked(|| "check".to_owned())?.into_inner().problems;
    if out.json {
        out.object(&json::Check { sound: problems.is_empty(), problems: &problems })?;
    } else if problems.is_empty() {
        out.line("sound: the store and the backend agree")?;
    } else {
        problems.iter().try_for_each(|problem| out.line(problem))?;
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::Unsound(problems.len())) }
}

pub(super) async fn status(client: &mut Client, out: &mut Out<'_>) -> Result<()> {
    let reply = during(|| "asking".to_owned(), client.admin.status(admin::StatusRequest {})).await;
    print_status(reply.asked(|| "show the status".to_owned())?.into_inner(), out)?;
    Ok(())
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
    if let Some(capacity) = capacity.filter(|capacity| capacity.metadata_total > 0) {
        fields.push(("Metadata", share(capacity.metadata_used, capacity.metadata_total)));
    }
    fields.push(("To reclaim", status.pending.to_string()));
    if !status.faulty.is_empty() {
        fields
            .push(("Set aside", format!("{} thin ids, see `thinfs faulty`", status.faulty.len())));
    }
    fields.push(("Activated", status.volumes.len().to_string()));
    fields.extend(status.details.iter().map(|detail| (detail.name.as_str(), detail.value.clone())));
    fields
}

fn share(used: u64, total: u64) -> String {
    let percent = (used as u128 * 100).checked_div(total as u128).unwrap_or(0);
    format!("{} of {} used ({percent} %)", size(used), size(total))
}
