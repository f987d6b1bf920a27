//! Subcommands about single snapshots.

use std::time::SystemTime;

use super::args::{CommitArgs, KeyArgs, LabelArgs, MountsArgs, PrepareArgs, RmArgs, ViewArgs};
use super::client::Client;
use super::error::{Asked, Result, several};
use super::json;
use super::output::{Out, printable, shell_word, size, text, time};
use super::progress::during;
use crate::grpc::proto::containerd::types::Mount;
use crate::grpc::proto::thinfs::admin::v1 as admin;
use crate::types::ROOT_LABEL;

/// The label by which containerd and we are told a filesystem's size.
const MAX_SIZE_LABEL: &str = "containerd.io/snapshot/max-size";
/// The same for its filesystem.
const FILESYSTEM_LABEL: &str = "containerd.io/snapshot/thinfs.fs-type";

pub(super) async fn prepare(
    args: PrepareArgs,
    client: &mut Client,
    out: &mut Out<'_>,
) -> Result<()> {
    let PrepareArgs { key, parent, labels, size, fs_type, lease } = args;
    let size = size.map(|size| (MAX_SIZE_LABEL.to_owned(), size.0.to_string()));
    let filesystem = fs_type.map(|fs| (FILESYSTEM_LABEL.to_owned(), fs.to_string()));
    let request = admin::PrepareRequest {
        namespace: client.ns(),
        key: key.clone(),
        parent: parent.unwrap_or_default(),
        labels: labels.labels.into_iter().chain(size).chain(filesystem).collect(),
        lease: lease.lease.unwrap_or_default(),
    };
    let reply = during(|| format!("preparing {key}"), client.admin.prepare(request)).await;
    made(reply.asked(|| format!("prepare {key:?}"))?.into_inner(), out)
}

pub(super) async fn view(args: ViewArgs, client: &mut Client, out: &mut Out<'_>) -> Result<()> {
    let ViewArgs { key, parent, labels, lease } = args;
    let request = admin::ViewRequest {
        namespace: client.ns(),
        key: key.clone(),
        parent: parent.unwrap_or_default(),
        labels: labels.labels.into_iter().collect(),
        lease: lease.lease.unwrap_or_default(),
    };
    let reply = during(|| format!("preparing view {key}"), client.admin.view(request)).await;
    made(reply.asked(|| format!("make view {key:?}"))?.into_inner(), out)
}

pub(super) async fn commit(args: CommitArgs, client: &mut Client, out: &mut Out<'_>) -> Result<()> {
    let CommitArgs { key, name, labels, parent, lease, keep } = args;
    let root = keep.then(|| (ROOT_LABEL.to_owned(), time(SystemTime::now().into())));
    let request = admin::CommitRequest {
        namespace: client.ns(),
        key: key.clone(),
        name: name.clone(),
        labels: labels.labels.into_iter().chain(root).collect(),
        parent: parent.unwrap_or_default(),
        lease: lease.lease.unwrap_or_default(),
    };
    let reply = during(|| format!("committing {key}"), client.admin.commit(request)).await;
    made(reply.asked(|| format!("commit {key:?} as {name:?}"))?.into_inner(), out)
}

/// Prints the directory, so that `cd "$(thinfs prepare …)"` works.
fn made(snapshot: admin::Snapshot, out: &mut Out) -> Result<()> {
    if out.json {
        out.object(&json::Snapshot::from(snapshot))?
    } else {
        out.line(snapshot.path)?
    }
    Ok(())
}

pub(super) async fn remove(args: RmArgs, client: &mut Client) -> Result<()> {
    let of = args.keys.len();
    let mut errors = Vec::new();
    for key in args.keys {
        let request = admin::RemoveRequest { namespace: client.ns(), key: key.clone() };
        let reply = during(|| format!("removing {key}"), client.admin.remove(request)).await;
        if let Err(error) = reply.asked(|| format!("remove {key:?}")) {
            errors.push(error);
        }
    }
    several(errors, of)
}

pub(super) async fn info(args: KeyArgs, client: &mut Client, out: &mut Out<'_>) -> Result<()> {
    let request = admin::StatRequest { namespace: client.ns(), key: args.key.clone() };
    let reply = client.admin.stat(request).await;
    let mut snapshot = reply.asked(|| format!("show {:?}", args.key))?.into_inner();
    if snapshot.usage.is_none() {
        let request = admin::UsageRequest { namespace: client.ns(), key: args.key.clone() };
        let reply = during(|| format!("measuring {}", args.key), client.admin.usage(request)).await;
        snapshot.usage = reply.asked(|| format!("measure {:?}", args.key))?.into_inner().usage;
    }
    if out.json {
        out.object(&json::Snapshot::from(snapshot))?
    } else {
        print_info(&snapshot, out)?
    }
    Ok(())
}

pub(super) fn print_info(snapshot: &admin::Snapshot, out: &mut Out) -> std::io::Result<()> {
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    let usage =
        snapshot.usage.map(|u| format!("{} ({} bytes), {} inodes", size(u.size), u.size, u.inodes));
    let labels: Vec<_> =
        snapshot.labels.iter().map(|(k, v)| printable(&format!("{k}={v}"))).collect();
    let some = |text: &str| Some(printable(text)).filter(|text| !text.is_empty());
    out.fields(&[
        ("Key", printable(&snapshot.key)),
        ("Kind", json::kind(snapshot.kind()).to_owned()),
        ("Parent", or_dash(some(&snapshot.parent))),
        ("Namespace", snapshot.namespace.clone()),
        ("Id", snapshot.id.to_string()),
        ("Created", or_dash(snapshot.created.map(time))),
        ("Updated", or_dash(snapshot.updated.map(time))),
        ("Usage", or_dash(usage)),
        ("Path", snapshot.path.clone()),
        ("Labels", or_dash(some_lines(labels))),
    ])
}

fn some_lines(lines: Vec<String>) -> Option<String> {
    if lines.is_empty() { None } else { Some(lines.join("\n")) }
}

pub(super) async fn mounts(args: MountsArgs, client: &mut Client, out: &mut Out<'_>) -> Result<()> {
    let request = admin::MountsRequest { namespace: client.ns(), key: args.key.clone() };
    let reply = client.admin.mounts(request).await;
    let mounts = reply.asked(|| format!("show the mounts of {:?}", args.key))?.into_inner().mounts;
    print_mounts(&mounts, out)?;
    Ok(())
}

pub(super) fn print_mounts(mounts: &[Mount], out: &mut Out) -> std::io::Result<()> {
    if out.json {
        return mounts.iter().try_for_each(|Mount { r#type, source, options, .. }| {
            out.object(&json::Mount { r#type, source, options })
        });
    }
    let rows = mounts
        .iter()
        .map(|mount| [mount.r#type.clone(), mount.options.join(","), mount.source.clone()]);
    out.table([text("TYPE"), text("OPTIONS"), text("SOURCE")], rows.collect())?;
    mounts.iter().try_for_each(|mount| {
        out.line(format!(
            "\nmount -o {} {} DIR",
            mount.options.join(","),
            shell_word(&mount.source)
        ))
    })
}

pub(super) async fn label(args: LabelArgs, client: &mut Client, out: &mut Out<'_>) -> Result<()> {
    let LabelArgs { key, labels } = args;
    let labels = labels.into_iter().collect();
    let request =
        admin::UpdateRequest { namespace: client.ns(), key: key.clone(), labels, replace: false };
    let reply = client.admin.update(request).await;
    let snapshot = reply.asked(|| format!("label {key:?}"))?.into_inner();
    if out.json {
        out.object(&json::Snapshot::from(snapshot))?;
    }
    Ok(())
}
