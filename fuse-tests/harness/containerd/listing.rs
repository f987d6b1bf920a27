//! What is listed by containerd and by thinfs, in one form, so that both can be compared.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::THINFS;
use crate::harness::run_command;

/// A snapshot as its keeper lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub parent: String,
    pub kind: String,
}

/// What a thinfs daemon's own socket lists. Its service is containerd's, so ctr can ask it directly, with no
/// containerd in between; keys then carry containerd's namespace and number: `ns/7/key`.
#[track_caller]
pub fn snapshots_on(socket: &Path) -> BTreeMap<String, Listed> {
    let mut command = Command::new("ctr");
    command.arg("--address").arg(socket).args(["snapshots", "--snapshotter", THINFS, "ls"]);
    parse_snapshots(&run_command(command, Duration::from_secs(60)).ok())
}

/// The keys that thinfs was given, without containerd's `ns/number/` in front: containerd's own view of them.
pub fn as_containerd_sees(listed: BTreeMap<String, Listed>) -> BTreeMap<String, Listed> {
    let bare = |key: &str| key.splitn(3, '/').nth(2).unwrap_or(key).to_owned();
    listed
        .into_iter()
        .map(|(key, l)| (bare(&key), Listed { parent: bare(&l.parent), kind: l.kind }))
        .collect()
}

/// Reads `ctr snapshots ls`: three columns, whose places the header shows (keys hold spaces, parents may be empty).
pub(super) fn parse_snapshots(listing: &str) -> BTreeMap<String, Listed> {
    let mut lines = listing.lines();
    let header = lines.next().expect("a listing has a header");
    let (parent, kind) = (
        header.find("PARENT").expect("a column PARENT"),
        header.find("KIND").expect("a column KIND"),
    );
    let columns = |line: &str| {
        let (key, rest) = line.split_at(parent);
        let (parent, kind) = rest.split_at(kind - parent);
        (
            key.trim().to_owned(),
            Listed { parent: parent.trim().to_owned(), kind: kind.trim().to_owned() },
        )
    };
    lines.map(columns).collect()
}
