//! Check: does everything fit together?

use std::time::Duration;

use super::census::Census;
use super::{Result, Snapshots};
use crate::meta::MEASURE;
use crate::types::Finding;

/// How long changes that run may take, and later ones wait for them.
const PATIENCE: Duration = Duration::from_secs(2);
/// What becomes of volumes that nobody names, where they are garbage.
const GARBAGE: &str = "it is destroyed, as the next start would";
const KEPT: &str = "it is kept until `thinfs check --repair` destroys it; what is needed of it must \
                    be saved first, or the store that was set aside put back";

const UNDECIDED: &str = "restart the daemon: a write to the store has failed, and the next start tells whether it \
                         names it";

impl Snapshots {
    /// Disagreements within the store, between store and backend, and removed volumes that can't be
    /// destroyed; none if all is sound. Changes nothing.
    ///
    /// What is in the making while it looks can seem to disagree, so it looks twice where there is
    /// something to say, and tells what both looks saw; what was in the making at the first look is
    /// waited for in between, for a while.
    pub fn check(&self) -> Result<Vec<Finding>> {
        let first = self.look()?;
        if first.is_empty() {
            return Ok(first);
        }
        drop(self.gate.try_write_for(PATIENCE));
        let second = self.look()?;
        Ok(first.into_iter().filter(|finding| second.contains(finding)).collect())
    }

    pub(super) fn look(&self) -> Result<Vec<Finding>> {
        let mut findings = self.store.verify()?;
        // What needs a look at the volumes is mended here.
        for finding in findings.iter_mut().filter(|finding| finding.remedy == MEASURE) {
            finding.mendable = true;
        }
        let known = match Census::take(&self.store) {
            Ok(census) => census.as_if_none_were_lost(),
            // The findings tell why.
            Err(_) if !findings.is_empty() => return Ok(findings),
            Err(error) => return Err(error),
        };
        let keeping = self.store.keeping()?;
        let lines = self.volumes.backend().check(&known)?;
        let unnamed = match (self.store.poisoned(), &keeping) {
            (Some(_), _) => Unnamed::Undecided,
            (None, Some(_)) => Unnamed::Kept,
            (None, None) => Unnamed::Garbage,
        };
        findings.extend(lines.into_iter().map(|line| of_backend(line, unnamed)));
        findings.extend(self.stuck());
        if let Some(reason) = keeping {
            findings.push(Finding::mendable(
                "volumes that no record names",
                format!("they are kept, because {reason}"),
                "let go of them",
            ));
        }
        Ok(findings)
    }

    /// Removed volumes that can't be destroyed.
    pub(super) fn stuck(&self) -> Vec<Finding> {
        self.reaper.failures().into_iter().map(|line| of_reaper(&line)).collect()
    }
}

/// What becomes of volumes that no record names.
#[derive(Clone, Copy)]
enum Unnamed {
    Garbage,
    Kept,
    /// A record that names them may be on the disk all the same.
    Undecided,
}

/// The backend tells in a line what is there without a record, what isn't there in spite of one, and
/// what is somebody else's.
fn of_backend(line: String, unnamed: Unnamed) -> Finding {
    if line.ends_with("has a tree but no record") || line.ends_with("belongs to no volume") {
        return match unnamed {
            Unnamed::Garbage => Finding::mendable("backend", line, GARBAGE),
            Unnamed::Kept => Finding::mendable("backend", line, KEPT),
            Unnamed::Undecided => Finding::manual("backend", line, UNDECIDED),
        };
    }
    if line.starts_with("the template on thin device") {
        return Finding::mendable("backend", line, "it is forgotten, and made again when needed");
    }
    let remedy = if line.contains("is lost") || line.ends_with("has a record but no tree") {
        "put it back from a backup of the root, or remove the snapshot with `thinfs rm`"
    } else if line.ends_with("is not a volume") || line.ends_with("was not made by thinfs") {
        "move it away: thinfs leaves it alone"
    } else {
        "see `thinfs status` and the daemon's log"
    };
    Finding::manual("backend", line, remedy)
}

fn of_reaper(line: &str) -> Finding {
    let (object, problem) = line.split_once(": ").unwrap_or(("removed volume", line));
    Finding::mendable(object, problem, "it is tried again, as the reaper does by itself")
}
