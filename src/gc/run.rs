//! One run over one namespace: gather, mark, and sweep unless it is a dry run.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use super::doomed::{Doomed, Fate};
use super::graph::{Gathering, Graph};
use super::mark::{Depth, mark};
use super::order::order;
use super::report::{Item, Report};
use super::source::{Kind, Resource, Source};
use super::{Collector, labels};
use crate::snapshot::Result;
use crate::types::Namespace;

/// How many resources are removed by one batch: enough that a write to stable storage each is
/// nothing, few enough that nobody waits long for one of their keys.
const BATCH: usize = 64;
/// The longest pause between two batches. A pause is as long as the batch before it, so that others
/// have half of the disk at least.
const PAUSE: Duration = Duration::from_millis(20);

impl Collector {
    /// Collects in one namespace.
    pub(super) fn run_in(&self, ns: &Namespace, dry: bool, report: &mut Report) -> Result<()> {
        let started = Instant::now();
        let sources = self.sources();
        let mut reason = false;
        for source in &sources {
            reason = reason || source.may_have_garbage(ns)?;
        }
        if !reason {
            report.mark += started.elapsed();
            return Ok(());
        }
        let graph = self.gather(ns, &sources, report)?;
        let garbage = self.unreached(ns, &graph)?;
        report.mark += started.elapsed();
        let started = Instant::now();
        let sweep = Sweep::new(self, ns, &graph, &garbage, report);
        if dry {
            sweep.tell()
        } else {
            sweep.run()
        }
        if !dry {
            report.sweep += started.elapsed();
        }
        Ok(())
    }

    /// Kinds first and leases last: what is made under a lease meanwhile is found with its lease,
    /// or not at all.
    fn gather(
        &self,
        ns: &Namespace,
        sources: &[std::sync::Arc<dyn Source>],
        report: &mut Report,
    ) -> Result<Graph> {
        let mut gathering = Gathering::default();
        for source in sources {
            let mut count = 0;
            source.scan(ns, &mut |found| {
                gathering.add(source.kind(), found);
                count += 1;
            })?;
            if count > 0 {
                *report.scanned.entry(source.kind()).or_default() += count;
            }
        }
        let mut graph = gathering.finish();
        for source in sources {
            source.roots(ns)?.into_iter().for_each(|root| graph.hold(root));
        }
        report.namespaces += 1;
        self.wake_for(ns, graph.next_expiry);
        Ok(graph)
    }

    fn unreached(&self, ns: &Namespace, graph: &Graph) -> Result<Vec<bool>> {
        let now = SystemTime::now();
        let mut roots = graph.roots();
        let kinds: Vec<Kind> = self.sources().iter().map(|source| source.kind()).collect();
        for lease in self.store().leases(ns)? {
            if labels::has_ended(&lease, now) {
                continue;
            }
            let depth = if labels::is_flat(&lease) { Depth::Flat } else { Depth::Full };
            for held in self.store().held_by(ns, &lease.id)? {
                let kind = kinds.iter().find(|kind| **kind == held.kind);
                let at = kind.and_then(|kind| graph.find(&Resource::new(kind, held.id)));
                roots.extend(at.map(|at| (at, depth)));
            }
        }
        Ok(mark(&graph.edges, &roots).into_iter().map(|reached| !reached).collect())
    }
}

/// The removal of a namespace's garbage.
struct Sweep<'a> {
    collector: &'a Collector,
    ns: &'a Namespace,
    graph: &'a Graph,
    groups: Vec<Vec<usize>>,
    /// Why each garbage resource is garbage.
    why: Vec<Option<String>>,
    /// What needs each after all.
    stays: Vec<Option<String>>,
    report: &'a mut Report,
}

impl<'a> Sweep<'a> {
    fn new(
        collector: &'a Collector,
        ns: &'a Namespace,
        graph: &'a Graph,
        garbage: &[bool],
        report: &'a mut Report,
    ) -> Self {
        let referrers = graph.referrers(garbage);
        let why = |at: usize| match referrers.get(&at) {
            Some(from) => {
                format!("only {} refers to it, which goes too", graph.nodes[*from].resource)
            }
            None => "nothing refers to it".to_owned(),
        };
        let why = (0..garbage.len()).map(|at| garbage[at].then(|| why(at))).collect();
        let groups = order(&graph.edges, garbage);
        let stays = vec![None; garbage.len()];
        Self { collector, ns, graph, groups, why, stays, report }
    }

    /// A dry run: all of it would go.
    fn tell(self) {
        for at in self.groups.iter().flatten() {
            self.report.collected.push(self.item(*at, self.why[*at].clone().unwrap_or_default()));
        }
    }

    /// Removes it, whoever refers before what it refers to. What stays keeps what it refers to.
    fn run(mut self) {
        for batch in self.batches() {
            if self.collector.is_stopping() {
                return;
            }
            let started = Instant::now();
            self.remove(&batch);
            std::thread::sleep(started.elapsed().min(PAUSE));
        }
    }

    /// Groups in order, packed; resources of one kind each, a cycle never split but by kind.
    fn batches(&mut self) -> Vec<Vec<usize>> {
        let kind = |at: usize| self.graph.nodes[at].resource.kind;
        let mut batches: Vec<Vec<usize>> = Vec::new();
        for group in std::mem::take(&mut self.groups) {
            let last = batches.last_mut();
            match last
                .filter(|last| last.len() + group.len() <= BATCH && kind(last[0]) == kind(group[0]))
            {
                Some(last) if group.iter().all(|at| kind(*at) == kind(group[0])) => {
                    last.extend(group)
                }
                _ => batches
                    .extend(group.chunk_by(|a, b| kind(*a) == kind(*b)).map(<[usize]>::to_vec)),
            }
        }
        batches
    }

    fn remove(&mut self, batch: &[usize]) {
        let (going, staying): (Vec<usize>, Vec<usize>) =
            batch.iter().partition(|at| self.stays[**at].is_none());
        for at in staying {
            let why = self.stays[at].clone().unwrap_or_default();
            self.report.stayed.push(self.item(at, why));
        }
        let Some(first) = going.first() else { return };
        let kind = self.graph.nodes[*first].resource.kind;
        let Some(source) = self.collector.source_of(kind) else { return };
        let mut doomed = self.doomed(&going);
        source.remove(self.ns, &mut doomed);
        let fates = doomed.into_fates();
        for (at, fate) in going.into_iter().zip(fates) {
            self.settle(at, fate);
        }
    }

    fn doomed(&self, going: &[usize]) -> Doomed<'a> {
        let graph = self.graph;
        let positions: HashMap<usize, usize> =
            going.iter().enumerate().map(|(position, at)| (*at, position)).collect();
        let items =
            going.iter().map(|at| (&graph.nodes[*at].resource, graph.nodes[*at].version)).collect();
        let targets = going
            .iter()
            .map(|at| {
                graph.edges[*at].iter().filter_map(|(_, to)| positions.get(to).copied()).collect()
            })
            .collect();
        Doomed::new(items, targets)
    }

    fn settle(&mut self, at: usize, fate: Fate) {
        match fate {
            Fate::Goes => {
                let item = self.item(at, self.why[at].clone().unwrap_or_default());
                self.report.collected.push(item);
            }
            Fate::Stays(why) => {
                self.keep_what_it_refers_to(at);
                self.report.stayed.push(self.item(at, why));
            }
            Fate::Failed(why) => {
                self.keep_what_it_refers_to(at);
                let resource = &self.graph.nodes[at].resource;
                self.report.failed.push(format!("{}: {resource}: {why}", self.ns));
            }
        }
    }

    fn keep_what_it_refers_to(&mut self, at: usize) {
        let why = format!("{} stays and refers to it", self.graph.nodes[at].resource);
        let mut reached: Vec<usize> = self.graph.edges[at].iter().map(|(_, to)| *to).collect();
        while let Some(next) = reached.pop() {
            if self.why[next].is_some() && self.stays[next].is_none() {
                self.stays[next] = Some(why.clone());
                reached.extend(self.graph.edges[next].iter().map(|(_, to)| *to));
            }
        }
    }

    fn item(&self, at: usize, why: String) -> Item {
        let resource = self.graph.nodes[at].resource.clone();
        Item { namespace: self.ns.clone(), resource, why }
    }
}
