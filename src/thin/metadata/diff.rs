//! Two mapping trees compared in the order of their keys, skipping subtrees that both share.
//!
//! A snapshot begins as the same root block; the kernel copies a node on its first change, so equal
//! block numbers mean equal subtrees. Each tree is a stack of spans, the lowest keys on top; the
//! span that begins lower is opened first, so that shared nodes meet at the top of both stacks.

use std::sync::atomic::{AtomicBool, Ordering};

use super::block::MetadataDevice;
use super::btree::Node;
use super::{Error, Result};

/// Time takes the lower 24 bits of a mapping; the data block is above.
pub(super) const TIME_BITS: u32 = 24;

/// The keys from `first` up to, without, `end`.
#[derive(Debug, Clone, Copy)]
struct Span {
    first: u64,
    end: u64,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// A node that has not been read; the block number.
    Unread(u64),
    /// One mapping; the data block.
    Mapped(u64),
}

/// One tree, as far as it has been opened.
struct Cursor<'a> {
    device: &'a MetadataDevice,
    /// Lowest keys last.
    spans: Vec<Span>,
}

impl<'a> Cursor<'a> {
    fn new(device: &'a MetadataDevice, root: u64) -> Self {
        Self { device, spans: vec![Span { first: 0, end: u64::MAX, what: What::Unread(root) }] }
    }

    fn top(&self) -> Option<Span> {
        self.spans.last().copied()
    }

    fn skip(&mut self) {
        self.spans.pop();
    }

    /// Reads the node on top and puts what is in it in its place.
    fn open(&mut self, span: Span, block: u64) -> Result<()> {
        let node = Node::read(self.device, block, 8)?;
        self.spans.pop();
        let mut end = span.end;
        for index in (0..node.len()).rev() {
            let (first, value) = (node.key(index), node.number_at(index));
            let what =
                if node.is_leaf() { What::Mapped(value >> TIME_BITS) } else { What::Unread(value) };
            self.spans.push(Span { first, end, what });
            end = first;
        }
        Ok(())
    }
}

/// Calls `visit` with the key of each mapping below `root` that has no equal below `shared`, in order.
pub(super) fn exclusive(
    device: &MetadataDevice,
    root: u64,
    shared: u64,
    cancel: &AtomicBool,
    visit: &mut dyn FnMut(u64),
) -> Result<()> {
    let (mut ours, mut theirs) = (Cursor::new(device, root), Cursor::new(device, shared));
    while let Some(our) = ours.top() {
        if cancel.load(Ordering::Relaxed) {
            return Err(Error::Cancelled);
        }
        // Theirs alone: gone without being read.
        while theirs.top().is_some_and(|their| their.end <= our.first) {
            theirs.skip();
        }
        let their = theirs.top();
        match (our.what, their.map(|t| (t, t.what))) {
            (What::Unread(a), Some((_, What::Unread(b)))) if a == b => {
                ours.skip();
                theirs.skip();
            }
            (What::Unread(a), Some((their, What::Unread(b)))) => {
                match our.first.cmp(&their.first) {
                    std::cmp::Ordering::Less => ours.open(our, a)?,
                    std::cmp::Ordering::Greater => theirs.open(their, b)?,
                    std::cmp::Ordering::Equal => {
                        // A tree may be one level higher than the other: open the wider span.
                        let (we_are_wider, they_are_wider) =
                            (our.end >= their.end, their.end >= our.end);
                        if we_are_wider {
                            ours.open(our, a)?;
                        }
                        if they_are_wider {
                            theirs.open(their, b)?;
                        }
                    }
                }
            }
            (What::Mapped(_), Some((their, What::Unread(b)))) if their.first <= our.first => {
                theirs.open(their, b)?;
            }
            (What::Unread(a), Some((their, What::Mapped(_)))) if their.first >= our.first => {
                ours.open(our, a)?;
            }
            (What::Unread(_), Some((_, What::Mapped(_)))) => theirs.skip(),
            (What::Mapped(a), Some((their, What::Mapped(b)))) if their.first == our.first => {
                if a != b {
                    visit(our.first);
                }
                ours.skip();
                theirs.skip();
            }
            (What::Mapped(_), Some((their, What::Mapped(_)))) if their.first < our.first => {
                theirs.skip()
            }
            (What::Mapped(_), _) => {
                visit(our.first);
                ours.skip();
            }
            (What::Unread(a), None) => ours.open(our, a)?,
        }
    }
    Ok(())
}
