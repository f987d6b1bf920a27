//! `lease`: what holds resources until it ends.

use std::io;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use prost_types::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

use super::client::Client;
use super::error::{Asked, Error, Result, several};
use super::gc_args::{
    HoldArgs, LeaseCommand, LeaseCreateArgs, LeaseIdArgs, LeaseRenewArgs, LeaseRmArgs, LeaseRunArgs,
};
use super::json;
use super::output::{Out, age, printable, text, time};
use super::progress::during;
use crate::grpc::proto::thinfs::admin::v1 as admin;
use crate::types::FLAT_LABEL;

/// How a command that runs under a lease, and what it starts, is told of it.
pub(super) const VARIABLE: &str = "THINFS_LEASE";

pub(super) async fn lease(
    command: LeaseCommand,
    client: &mut Client,
    out: &mut Out<'_>,
) -> Result<()> {
    match command {
        LeaseCommand::Create(args) => create(args, client, out).await,
        LeaseCommand::Ls => ls(client, out).await,
        LeaseCommand::Info(args) => info(args, client, out).await,
        LeaseCommand::Add(args) => hold(args, true, client).await,
        LeaseCommand::Drop(args) => hold(args, false, client).await,
        LeaseCommand::Renew(args) => renew(args, client).await,
        LeaseCommand::Rm(args) => rm(args, client).await,
        LeaseCommand::Run(args) => run(args, client).await,
    }
}

async fn create(args: LeaseCreateArgs, client: &mut Client, out: &mut Out<'_>) -> Result<()> {
    let LeaseCreateArgs { id, ttl, flat, labels } = args;
    let flat = flat.then(|| (FLAT_LABEL.to_owned(), "true".to_owned()));
    let request = admin::CreateLeaseRequest {
        namespace: client.ns(),
        id: id.unwrap_or_default(),
        labels: labels.labels.into_iter().chain(flat).collect(),
        ttl: ttl.map_or(0, |ttl| seconds(ttl.0)),
    };
    let reply = client.leases.create(request).await;
    let lease = reply.asked(|| "create a lease".to_owned())?.into_inner();
    if out.json {
        out.object(&json::Lease::from(lease))?
    } else {
        out.line(lease.id)?
    }
    Ok(())
}

/// A lease that is to end at all lives for a second at least: 0 means that it doesn't end.
fn seconds(ttl: Duration) -> u64 {
    ttl.as_secs().max(1)
}

async fn ls(client: &mut Client, out: &mut Out<'_>) -> Result<()> {
    let request = admin::ListLeasesRequest { namespace: client.ns() };
    let reply = client.leases.list(request).await;
    let leases = reply.asked(|| "list leases".to_owned())?.into_inner().leases;
    print_leases(leases, out)?;
    Ok(())
}

pub(super) fn print_leases(leases: Vec<admin::Lease>, out: &mut Out) -> io::Result<()> {
    if out.json {
        return leases.into_iter().try_for_each(|lease| out.object(&json::Lease::from(lease)));
    }
    let now = out.now;
    let dash = || "-".to_owned();
    let rows = leases.iter().map(|lease| {
        [
            lease.id.clone(),
            lease.created.map_or_else(dash, |created| age(created, now)),
            lease.expires.map_or_else(|| "never".to_owned(), time),
            labels(lease).join(","),
        ]
    });
    out.table([text("LEASE"), text("AGE"), text("EXPIRES"), text("LABELS")], rows.collect())
}

fn labels(lease: &admin::Lease) -> Vec<String> {
    lease.labels.iter().map(|(key, value)| printable(&format!("{key}={value}"))).collect()
}

async fn info(args: LeaseIdArgs, client: &mut Client, out: &mut Out<'_>) -> Result<()> {
    let request = admin::GetLeaseRequest { namespace: client.ns(), id: args.id.clone() };
    let reply = client.leases.get(request).await;
    let lease = reply.asked(|| format!("show lease {:?}", args.id))?.into_inner();
    print_lease(lease, out)?;
    Ok(())
}

pub(super) fn print_lease(lease: admin::Lease, out: &mut Out) -> io::Result<()> {
    if out.json {
        return out.object(&json::Lease::from(lease));
    }
    let never = |at: Option<Timestamp>| at.map_or_else(|| "never".to_owned(), time);
    let lines = |lines: Vec<String>| {
        if lines.is_empty() { "-".to_owned() } else { lines.join("\n") }
    };
    let holds = lease.resources.iter().map(|r| printable(&format!("{} {}", r.kind, r.id)));
    out.fields(&[
        ("Lease", lease.id.clone()),
        ("Namespace", lease.namespace.clone()),
        ("Created", never(lease.created)),
        ("Expires", never(lease.expires)),
        ("Labels", lines(labels(&lease))),
        ("Holds", lines(holds.collect())),
    ])
}

async fn hold(args: HoldArgs, hold: bool, client: &mut Client) -> Result<()> {
    for id in args.ids {
        let resource = Some(admin::Resource { kind: args.kind.clone(), id: id.clone() });
        let (namespace, lease) = (client.ns(), args.lease.clone());
        let request = admin::HoldRequest { namespace, lease, resource };
        let reply = match hold {
            true => client.leases.hold(request).await,
            false => client.leases.let_go(request).await,
        };
        reply.asked(|| match hold {
            true => format!("have lease {:?} hold {id:?}", args.lease),
            false => format!("have lease {:?} let go of {id:?}", args.lease),
        })?;
    }
    Ok(())
}

async fn renew(args: LeaseRenewArgs, client: &mut Client) -> Result<()> {
    let request = renewal(client, &args.id, args.ttl.0);
    client.leases.update(request).await.asked(|| format!("renew lease {:?}", args.id))?;
    Ok(())
}

fn renewal(client: &Client, id: &str, ttl: Duration) -> admin::UpdateLeaseRequest {
    admin::UpdateLeaseRequest {
        namespace: client.ns(),
        id: id.to_owned(),
        labels: Default::default(),
        ttl: seconds(ttl),
    }
}

async fn rm(args: LeaseRmArgs, client: &mut Client) -> Result<()> {
    let (of, mut errors) = (args.ids.len(), Vec::new());
    for id in args.ids {
        let what = format!("delete lease {id:?}");
        let request = admin::DeleteLeaseRequest { namespace: client.ns(), id, collect: args.wait };
        let reply = during(|| "collecting".to_owned(), client.leases.delete(request)).await;
        errors.extend(reply.asked(|| what).err());
    }
    several(errors, of)
}

/// Makes a lease, runs the command with it in its environment, renews it meanwhile, and deletes it
/// when the command has ended, however it did. If this process is killed, nobody renews the lease
/// and it ends by itself. Ends with the command's exit code.
async fn run(args: LeaseRunArgs, client: &mut Client) -> Result<()> {
    let LeaseRunArgs { ttl, wait, labels, command } = args;
    let request = admin::CreateLeaseRequest {
        namespace: client.ns(),
        id: String::new(),
        labels: labels.labels.into_iter().collect(),
        ttl: seconds(ttl.0),
    };
    let reply = client.leases.create(request).await;
    let id = reply.asked(|| "create a lease".to_owned())?.into_inner().id;
    let ended = hold_for(&command, &id, ttl.0, client).await;
    rm(LeaseRmArgs { wait, ids: vec![id] }, client).await?;
    match exit_code(ended?) {
        0 => Ok(()),
        code => Err(Error::Ended(code)),
    }
}

async fn hold_for(
    command: &[String],
    id: &str,
    ttl: Duration,
    client: &mut Client,
) -> Result<ExitStatus> {
    let failed = |source| Error::Command { command: command[0].clone(), source };
    // Before the child is there, so that no signal is missed.
    let mut stops = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()]
        .map(signal)
        .into_iter()
        .collect::<io::Result<Vec<_>>>()
        .map_err(failed)?;
    let [terminated, interrupted, hung_up] = &mut stops[..] else { unreachable!("three kinds") };
    let child = std::process::Command::new(&command[0])
        .args(&command[1..])
        .env(VARIABLE, id)
        .env("THINFS_NAMESPACE", client.ns())
        .env("THINFS_SOCKET", &client.socket)
        .spawn()
        .map_err(failed)?;
    let pid = Pid::from_child(&child);
    let mut ended = tokio::task::spawn_blocking(move || wait(child));
    let mut renew = tokio::time::interval(ttl.max(Duration::from_secs(1)) / 3);
    loop {
        tokio::select! {
            status = &mut ended => return status.map_err(io::Error::other).and_then(|s| s).map_err(failed),
            // A daemon that restarts is reached again; one that is gone can't collect either.
            _ = renew.tick() => drop(client.leases.update(renewal(client, id, ttl)).await),
            _ = terminated.recv() => pass_on(pid, Signal::TERM),
            _ = hung_up.recv() => pass_on(pid, Signal::HUP),
            // A terminal sends it to the command as well.
            _ = interrupted.recv() => {}
        }
    }
}

fn wait(mut child: Child) -> io::Result<ExitStatus> {
    child.wait()
}

/// A command that has just ended needs no signal.
fn pass_on(pid: Pid, signal: Signal) {
    let _ = kill_process(pid, signal);
}

/// As a shell has it: 128 and the signal's number for a command that was killed.
fn exit_code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt as _;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}
