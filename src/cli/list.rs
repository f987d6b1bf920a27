//! `ls`: many snapshots, a line each.

use tonic::Streaming;

use super::args::{KindArg, LsArgs};
use super::client::Client;
use super::error::{Asked, Result};
use super::json;
use super::output::{Out, age, number, printable, size, text};
use super::progress::during;
use crate::grpc::proto::thinfs::admin::v1 as admin;

pub(super) async fn ls(args: LsArgs, client: &mut Client, out: &mut Out<'_>) -> Result<()> {
    let request = admin::ListRequest {
        namespace: client.ns(),
        filters: filters(&args.kind, args.filter),
        usage: args.usage,
        limit: args.limit.map_or(0, |limit| limit.get()),
        after: args.after.unwrap_or_default(),
    };
    let snapshots = list(client, request).await?;
    print_list(snapshots, out)?;
    Ok(())
}

/// All snapshots that match, sorted by key.
pub(super) async fn snapshots(
    client: &mut Client,
    filters: Vec<String>,
    usage: bool,
) -> Result<Vec<admin::Snapshot>> {
    let request = admin::ListRequest {
        namespace: client.ns(),
        filters,
        usage,
        ..admin::ListRequest::default()
    };
    list(client, request).await
}

async fn list(client: &mut Client, request: admin::ListRequest) -> Result<Vec<admin::Snapshot>> {
    let listing = async {
        let stream = client.admin.list(request).await?.into_inner();
        collect(stream).await
    };
    let listed = during(|| "listing snapshots".to_owned(), listing).await;
    let mut snapshots = listed.asked(|| "list snapshots".to_owned())?;
    snapshots.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(snapshots)
}

async fn collect(
    mut stream: Streaming<admin::ListReply>,
) -> std::result::Result<Vec<admin::Snapshot>, tonic::Status> {
    let mut all = Vec::new();
    while let Some(reply) = stream.message().await? {
        all.extend(reply.snapshots);
    }
    Ok(all)
}

/// A filter matches if all of its parts do, and one filter is enough: so each is tried with each
/// kind.
pub(super) fn filters(kinds: &[KindArg], filters: Vec<String>) -> Vec<String> {
    if kinds.is_empty() {
        return filters;
    }
    let kinds = || kinds.iter().map(|kind| format!("kind=={}", kind.as_str()));
    if filters.is_empty() {
        return kinds().collect();
    }
    filters.iter().flat_map(|filter| kinds().map(move |kind| format!("{filter},{kind}"))).collect()
}

pub(super) fn print_list(snapshots: Vec<admin::Snapshot>, out: &mut Out) -> std::io::Result<()> {
    if out.json {
        return snapshots
            .into_iter()
            .try_for_each(|snapshot| out.object(&json::Snapshot::from(snapshot)));
    }
    let now = out.now;
    let rows = snapshots.iter().map(|snapshot| {
        [
            printable(&snapshot.key),
            json::kind(snapshot.kind()).to_owned(),
            or_dash(printable(&snapshot.parent)),
            or_dash(snapshot.usage.map(|usage| size(usage.size)).unwrap_or_default()),
            or_dash(snapshot.usage.map(|usage| usage.inodes.to_string()).unwrap_or_default()),
            or_dash(snapshot.created.map(|created| age(created, now)).unwrap_or_default()),
        ]
    });
    let columns = [
        text("KEY"),
        text("KIND"),
        text("PARENT"),
        number("SIZE"),
        number("INODES"),
        number("AGE"),
    ];
    out.table(columns, rows.collect())
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}
