//! `usage`, `resize` and `trim`: sizes, and whose the storage is.

use std::collections::HashMap;

use super::args::{ResizeArgs, TrimArgs, UsageArgs};
use super::client::Client;
use super::error::{Asked, Result};
use super::json;
use super::list::snapshots;
use super::output::{Out, number, printable, size, text};
use super::progress::during;
use crate::grpc::proto::thinfs::admin::v1 as admin;

pub(super) async fn resize(args: ResizeArgs, client: &mut Client, out: &mut Out<'_>) -> Result<()> {
    let ResizeArgs { key, size } = args;
    let request = admin::ResizeRequest { namespace: client.ns(), key: key.clone(), size: size.0 };
    let reply = during(|| format!("resizing {key}"), client.admin.resize(request)).await;
    let snapshot = reply.asked(|| format!("resize {key:?}"))?.into_inner();
    if out.json {
        out.object(&json::Snapshot::from(snapshot))?;
    }
    Ok(())
}

pub(super) async fn trim(args: TrimArgs, client: &mut Client, out: &mut Out<'_>) -> Result<()> {
    let keys = match args.keys.is_empty() {
        false => args.keys,
        true => {
            let active = snapshots(client, vec!["kind==active".to_owned()], false).await?;
            active.into_iter().map(|snapshot| snapshot.key).collect()
        }
    };
    let mut trimmed = Vec::with_capacity(keys.len());
    for key in keys {
        let request = admin::TrimRequest { namespace: client.ns(), key: key.clone() };
        let reply = during(|| format!("trimming {key}"), client.admin.trim(request)).await;
        trimmed.push((key.clone(), reply.asked(|| format!("trim {key:?}"))?.into_inner().bytes));
    }
    print_trimmed(&trimmed, out)?;
    Ok(())
}

pub(super) fn print_trimmed(trimmed: &[(String, u64)], out: &mut Out) -> std::io::Result<()> {
    if out.json {
        return trimmed
            .iter()
            .try_for_each(|(key, bytes)| out.object(&json::Trimmed { key, bytes: *bytes }));
    }
    let rows = trimmed.iter().map(|(key, bytes)| [printable(key), size(*bytes)]);
    out.table([text("KEY"), number("GIVEN BACK")], rows.collect())
}

pub(super) async fn usage(args: UsageArgs, client: &mut Client, out: &mut Out<'_>) -> Result<()> {
    let all = args.keys.is_empty();
    let usages = if all { all_usages(client).await? } else { usages(args.keys, client).await? };
    let request = admin::SpaceRequest { namespace: client.ns() };
    let reply = during(|| "comparing snapshots".to_owned(), client.admin.space(request)).await;
    let mut space = reply.asked(|| "compare snapshots".to_owned())?.into_inner();
    if !all {
        space.pool = None;
    }
    print_usages(&usages, &space, out)?;
    Ok(())
}

async fn all_usages(client: &mut Client) -> Result<Vec<(String, admin::Usage)>> {
    let snapshots = snapshots(client, Vec::new(), true).await?;
    Ok(snapshots.into_iter().filter_map(|snapshot| Some((snapshot.key, snapshot.usage?))).collect())
}

async fn usages(keys: Vec<String>, client: &mut Client) -> Result<Vec<(String, admin::Usage)>> {
    let mut usages = Vec::with_capacity(keys.len());
    for key in keys {
        let request = admin::UsageRequest { namespace: client.ns(), key: key.clone() };
        let reply = during(|| format!("measuring {key}"), client.admin.usage(request)).await;
        let usage =
            reply.asked(|| format!("measure {key:?}"))?.into_inner().usage.unwrap_or_default();
        usages.push((key, usage));
    }
    Ok(usages)
}

pub(super) fn print_usages(
    usages: &[(String, admin::Usage)],
    space: &admin::SpaceReply,
    out: &mut Out,
) -> std::io::Result<()> {
    let shares: HashMap<_, _> = space.snapshots.iter().map(|s| (s.key.as_str(), s)).collect();
    let share = |key: &str| shares.get(key).copied();
    if out.json {
        return usages.iter().try_for_each(|(key, usage)| {
            let (exclusive, shared) =
                (share(key).map(|s| s.exclusive), share(key).map(|s| s.shared));
            let (size, inodes) = (usage.size, usage.inodes);
            out.object(&json::KeyUsage { key, size, inodes, exclusive, shared })
        });
    }
    if shares.is_empty() {
        let rows =
            usages.iter().map(|(key, u)| [printable(key), size(u.size), u.inodes.to_string()]);
        return out.table([text("KEY"), number("SIZE"), number("INODES")], rows.collect());
    }
    let or_dash = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), size);
    let rows = usages.iter().map(|(key, usage)| {
        let (alone, shared) = (share(key).map(|s| s.exclusive), share(key).map(|s| s.shared));
        let inodes = usage.inodes.to_string();
        [printable(key), size(usage.size), inodes, or_dash(alone), or_dash(shared)]
    });
    let columns =
        [text("KEY"), number("SIZE"), number("INODES"), number("ALONE"), number("SHARED")];
    out.table(columns, rows.collect())?;
    let Some(pool) = space.pool else { return Ok(()) };
    let alone = pool.used.saturating_sub(pool.shared).saturating_sub(pool.others);
    out.line(format!(
        "\n{} used: {} alone, {} shared, {} others (bases of empty snapshots, other namespaces, removed)",
        size(pool.used),
        size(alone),
        size(pool.shared),
        size(pool.others)
    ))
}
