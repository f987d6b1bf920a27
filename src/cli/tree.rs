//! `tree`: which snapshot stands on which.

use std::collections::BTreeMap;

use super::client::Client;
use super::error::Result;
use super::json;
use super::list::snapshots;
use super::output::{Out, number, printable, size, text};
use crate::grpc::proto::thinfs::admin::v1 as admin;

pub(super) async fn tree(client: &mut Client, out: &mut Out<'_>) -> Result<()> {
    let snapshots = snapshots(client, Vec::new(), true).await?;
    print_tree(snapshots, out)?;
    Ok(())
}

pub(super) fn print_tree(snapshots: Vec<admin::Snapshot>, out: &mut Out) -> std::io::Result<()> {
    let nodes = arrange(snapshots);
    if out.json {
        return nodes.into_iter().try_for_each(|node| {
            out.object(&json::TreeLine {
                depth: node.depth,
                snapshot: json::Snapshot::from(node.snapshot),
            })
        });
    }
    let rows = nodes.iter().map(|Node { branch, snapshot, .. }| {
        [
            format!("{branch}{}", printable(&snapshot.key)),
            json::kind(snapshot.kind()).to_owned(),
            snapshot.usage.map_or("-".to_owned(), |usage| size(usage.size)),
            snapshot.usage.map_or("-".to_owned(), |usage| usage.inodes.to_string()),
        ]
    });
    out.table([text("SNAPSHOT"), text("KIND"), number("SIZE"), number("INODES")], rows.collect())
}

/// What can be drawn as a tree.
pub(super) trait Standing {
    fn key(&self) -> &str;
    /// Empty: it stands on nothing.
    fn parent(&self) -> &str;
}

impl Standing for admin::Snapshot {
    fn key(&self) -> &str {
        &self.key
    }

    fn parent(&self) -> &str {
        &self.parent
    }
}

/// A line of a tree.
pub(super) struct Node<T> {
    pub(super) depth: usize,
    /// The lines drawn to the left of the key.
    pub(super) branch: String,
    pub(super) snapshot: T,
}

/// Parents before their children, each below its own; siblings stay in the given order. A snapshot
/// whose parent isn't listed stands at the top. Chains can be long, hence no recursion.
pub(super) fn arrange<T: Standing>(snapshots: Vec<T>) -> Vec<Node<T>> {
    let known: std::collections::BTreeSet<String> =
        snapshots.iter().map(|s| s.key().to_owned()).collect();
    let mut children: BTreeMap<Option<String>, Vec<T>> = BTreeMap::new();
    for snapshot in snapshots {
        let parent = Some(snapshot.parent().to_owned()).filter(|parent| known.contains(parent));
        children.entry(parent).or_default().push(snapshot);
    }
    let mut nodes = Vec::new();
    let mut waiting: Vec<Waiting<T>> = below(&mut children, None, 0, "");
    while let Some(Waiting { depth, indent, last, snapshot }) = waiting.pop() {
        let (own, further) = match (depth, last) {
            (0, _) => ("", ""),
            (_, false) => ("├── ", "│   "),
            (_, true) => ("└── ", "    "),
        };
        waiting.extend(below(
            &mut children,
            Some(snapshot.key()),
            depth + 1,
            &format!("{indent}{further}"),
        ));
        nodes.push(Node { depth, branch: format!("{indent}{own}"), snapshot });
    }
    nodes
}

struct Waiting<T> {
    depth: usize,
    /// What stands left of this one's own branch.
    indent: String,
    last: bool,
    snapshot: T,
}

/// The children of `parent`, last first, as the stack wants them.
fn below<T: Standing>(
    children: &mut BTreeMap<Option<String>, Vec<T>>,
    parent: Option<&str>,
    depth: usize,
    indent: &str,
) -> Vec<Waiting<T>> {
    let siblings = children.remove(&parent.map(str::to_owned)).unwrap_or_default();
    let wait = |(i, snapshot)| Waiting { depth, indent: indent.to_owned(), last: i == 0, snapshot };
    siblings.into_iter().rev().enumerate().map(wait).collect()
}
