//! What must be there, and what may.

use std::collections::BTreeMap;

use super::*;
use crate::types::Kind;

/// What is known of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) kind: Kind,
    pub(super) parent: Option<String>,
    /// Surely there: it was flushed, or inherited.
    pub(super) flushed: Content,
    /// Written since; a power cut may take it.
    pub(super) written: Content,
}

impl Expected {
    /// All that was written.
    pub(super) fn all(&self) -> Content {
        &self.flushed | &self.written
    }
}

pub(super) type Reference = BTreeMap<String, Expected>;

pub(super) fn word(key: u8) -> String {
    format!("key/{key}")
}

/// What a call would make of the reference; `None`: it would be refused.
pub(super) fn after(op: Op, before: &Reference, token: u32) -> Option<Reference> {
    let mut then = before.clone();
    match op {
        Op::Prepare { key, parent } => {
            let new = child(before, parent.map(word), Kind::Active)?;
            then.insert(word(key), new).is_none().then_some(then)
        }
        Op::PrepareTogether { key, parent, more } => {
            for key in keys(key, more) {
                let new = child(before, Some(word(parent)), Kind::Active)?;
                then.insert(word(key), new).is_none().then_some(())?;
            }
            Some(then)
        }
        Op::View { key, parent } => {
            let new = child(before, Some(word(parent)), Kind::View)?;
            then.insert(word(key), new).is_none().then_some(then)
        }
        Op::Write { key } => {
            let snapshot = then.get_mut(&word(key)).filter(|s| s.kind == Kind::Active)?;
            snapshot.written.insert(token);
            Some(then)
        }
        Op::Commit { key, name } => {
            let active = then.remove(&word(key)).filter(|s| s.kind == Kind::Active)?;
            let flushed = active.all();
            let committed = Expected {
                kind: Kind::Committed,
                flushed,
                written: Content::new(),
                parent: active.parent,
            };
            if key == name {
                return None;
            }
            then.insert(word(name), committed).is_none().then_some(then)
        }
        Op::Remove { key } => {
            then.remove(&word(key))?;
            let orphans = then.values().any(|s| s.parent.as_deref() == Some(&word(key)));
            (!orphans).then_some(then)
        }
        Op::Cleanup | Op::Doom { .. } | Op::Restart { .. } | Op::CommitFails => Some(then),
    }
}

fn child(before: &Reference, parent: Option<String>, kind: Kind) -> Option<Expected> {
    let flushed = match &parent {
        None => Content::from([backend::FORMATTED]),
        Some(parent) => before.get(parent).filter(|s| s.kind == Kind::Committed)?.flushed.clone(),
    };
    Some(Expected { kind, parent, flushed, written: Content::new() })
}
