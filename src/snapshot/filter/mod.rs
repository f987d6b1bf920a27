//! containerd's filter language, for `walk`.
//!
//! ```text
//! filters   := none: everything matches; several: any of them may match
//! filter    := "" | selector ("," selector)*          all selectors must match
//! selector  := fieldpath | fieldpath operator value   alone: is the field present?
//! fieldpath := field ("." field)*
//! field     := quoted | [A-Za-z0-9_]+
//! operator  := "==" | "!=" | "~="                     the last one: a regular expression
//! value     := quoted | [^\s,]+
//! quoted    := a Go string in "…"; after ~= also in |…| or /…/
//! ```
//!
//! Scanner, quotes and the order of errors follow containerd's `filters` package, so that what it
//! accepts is accepted and what it refuses is refused. One thing is stricter: a regular expression
//! that doesn't compile is refused here, where containerd logs it and matches nothing.

mod parser;
mod quote;
mod scanner;
#[cfg(test)]
mod tests;

use regex::Regex;

use super::{Error, Info, Result};
use crate::types::{Kind, SnapshotKey};

/// What some filters let through.
#[derive(Debug)]
pub(super) struct Filter {
    /// Any may match; empty lets everything through.
    alternatives: Vec<Vec<Selector>>,
}

/// One condition on one field.
#[derive(Debug)]
struct Selector {
    field: Vec<String>,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

/// What must be read to find all that one alternative of a filter lets through, and maybe more.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reach<'a> {
    /// All snapshots.
    Everything,
    /// Those of one kind.
    Kind(Kind),
    /// Those with a label, of any value or of one.
    Labelled(String, Option<&'a str>),
    /// The children of one snapshot.
    ChildrenOf(&'a str),
    /// One snapshot.
    Named(&'a str),
}

impl Reach<'_> {
    /// The snapshot key that it names, if it is one.
    pub(super) fn key(&self) -> Option<SnapshotKey> {
        match self {
            Reach::ChildrenOf(text) | Reach::Named(text) => SnapshotKey::new(*text).ok(),
            Reach::Everything | Reach::Kind(_) | Reach::Labelled(..) => None,
        }
    }
}

impl Filter {
    /// Parses filters. One that is no filter is [`Error::InvalidArgument`].
    pub(super) fn parse(filters: &[String]) -> Result<Self> {
        let alternatives = filters
            .iter()
            .map(|filter| {
                parser::parse(filter).map_err(|error| Error::InvalidArgument(error.to_string()))
            })
            .collect::<Result<_>>()?;
        Ok(Self { alternatives })
    }

    /// Whether the snapshot passes.
    pub(super) fn matches(&self, info: &Info) -> bool {
        self.matches_fields(&|path| field(info, path))
    }

    /// `fields` gives the value at a field path, where there is one.
    fn matches_fields(&self, fields: &dyn Fn(&[String]) -> Option<String>) -> bool {
        self.alternatives.is_empty()
            || self
                .alternatives
                .iter()
                .any(|all| all.iter().all(|selector| selector.matches(fields)))
    }

    /// The smallest index ranges that hold all that passes.
    pub(super) fn reaches(&self) -> Vec<Reach<'_>> {
        match &self.alternatives[..] {
            [] => vec![Reach::Everything],
            alternatives => alternatives.iter().map(|selectors| reach(selectors)).collect(),
        }
    }
}

/// The index range that is likely to be the smallest of those that hold all that passes.
fn reach(selectors: &[Selector]) -> Reach<'_> {
    let equal = |name: &str| selectors.iter().find_map(|selector| selector.equal(name));
    if let Some(name) = equal("name") {
        return Reach::Named(name);
    }
    if let Some(parent) = equal("parent").filter(|parent| !parent.is_empty()) {
        return Reach::ChildrenOf(parent);
    }
    if let Some((label, value)) = selectors.iter().find_map(Selector::label_equal) {
        return Reach::Labelled(label, Some(value));
    }
    if let Some(label) = selectors.iter().find_map(Selector::label_present) {
        return Reach::Labelled(label, None);
    }
    let kind =
        equal("kind").and_then(|word| Kind::ALL.into_iter().find(|kind| kind.as_str() == word));
    kind.map_or(Reach::Everything, Reach::Kind)
}

impl Selector {
    /// An absent field counts as empty for `!=` and `~=`, and as different from everything for
    /// `==`.
    fn matches(&self, fields: &dyn Fn(&[String]) -> Option<String>) -> bool {
        let value = fields(&self.field);
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(wanted) => value.as_ref() == Some(wanted),
            Test::NotEqual(unwanted) => value.unwrap_or_default() != *unwanted,
            Test::Matches(regex) => regex.is_match(&value.unwrap_or_default()),
        }
    }

    /// A label, and the value that it must be equal to.
    fn label_equal(&self) -> Option<(String, &str)> {
        match &self.test {
            Test::Equal(value) => Some((self.label()?, value)),
            Test::Present | Test::NotEqual(_) | Test::Matches(_) => None,
        }
    }

    /// A label that must be there.
    fn label_present(&self) -> Option<String> {
        match self.test {
            Test::Present => self.label(),
            Test::Equal(_) | Test::NotEqual(_) | Test::Matches(_) => None,
        }
    }

    /// The label that the field is.
    fn label(&self) -> Option<String> {
        (self.field[0] == "labels").then(|| self.field[1..].join("."))
    }

    /// The value that the field `name` must be equal to.
    fn equal(&self, name: &str) -> Option<&str> {
        match &self.test {
            Test::Equal(value) if self.field[0] == name => Some(value),
            _ => None,
        }
    }
}

/// The fields of a snapshot. Without a parent, `parent` is there and empty; a label's key may come
/// in parts with dots between.
fn field(info: &Info, path: &[String]) -> Option<String> {
    match path[0].as_str() {
        "name" => Some(info.key.to_string()),
        "parent" => {
            Some(info.snapshot.parent.as_ref().map(ToString::to_string).unwrap_or_default())
        }
        "kind" => Some(info.snapshot.kind.to_string()),
        "labels" => info.snapshot.labels.get(&path[1..].join(".")).cloned(),
        _ => None,
    }
}
