//! One run over one namespace: gather or trace, mark, and sweep unless it is a dry run.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::doomed::{Doomed, Fate};
use super::graph::{Gathering, Graph};
use super::mark::{Depth, mark};
use super::order::order;
use super::report::{Item, Report};
use super::source::Source;
use super::suspects::Suspects;
use super::trace::Part;
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
    /// Collects in one namespace: what has become garbage among the suspects, and with them. `now`: when the run began.
    pub(super) fn run_in(
        &self,
        ns: &Namespace,
        suspects: &Suspects,
        now: SystemTime,
        dry: bool,
        report: &mut Report,
    ) -> Result<()> {
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
        let Part { graph, roots } = self.around(ns, &sources, suspects, now)?;
        self.tell_of(ns, &graph, report);
        let garbage = judge(ns, &graph, roots, &held(ns, &sources, &graph)?, report);
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

    /// As much of the namespace as it takes to judge the suspects: what a search finds, or all of it.
    fn around(
        &self,
        ns: &Namespace,
        sources: &[Arc<dyn Source>],
        suspects: &Suspects,
        now: SystemTime,
    ) -> Result<Part> {
        let can_trace = sources.iter().all(|source| source.can_trace(ns));
        match suspects.to_follow(self.store().count_in(ns)).filter(|_| can_trace) {
            Some(these) => self.trace(ns, sources, these, now),
            None => self.gather(ns, sources, now),
        }
    }

    /// Kinds first and leases last: what is made under a lease meanwhile is found with its lease,
    /// or not at all.
    fn gather(&self, ns: &Namespace, sources: &[Arc<dyn Source>], now: SystemTime) -> Result<Part> {
        let mut gathering = Gathering::default();
        for source in sources {
            source.scan(ns, &mut |found| {
                gathering.add(source.kind(), found);
            })?;
        }
        let graph = gathering.finish();
        let roots = self.leased(ns, &graph, now)?;
        Ok(Part { graph, roots })
    }

    /// What leases hold that had not ended by then.
    fn leased(
        &self,
        ns: &Namespace,
        graph: &Graph,
        now: SystemTime,
    ) -> Result<Vec<(usize, Depth)>> {
        let mut roots = Vec::new();
        for lease in self.store().leases(ns)? {
            let Some(depth) = labels::reach(&lease, now) else { continue };
            for held in self.store().held_by(ns, &lease.id)? {
                let at = self.resource(held).and_then(|resource| graph.find(&resource));
                roots.extend(at.map(|at| (at, depth)));
            }
        }
        Ok(roots)
    }

    /// What was looked at, and which holds end by themselves.
    fn tell_of(&self, ns: &Namespace, graph: &Graph, report: &mut Report) {
        report.namespaces += 1;
        for node in &graph.nodes {
            *report.scanned.entry(node.resource.kind).or_default() += 1;
        }
        self.held_until(ns, graph.ends.iter().cloned());
    }
}

/// What sources hold for as long as something lasts that ends without a word: mounts, streams.
fn held(
    ns: &Namespace,
    sources: &[Arc<dyn Source>],
    graph: &Graph,
) -> Result<HashMap<usize, String>> {
    let mut held = HashMap::new();
    for source in sources {
        for root in source.roots(ns)? {
            let at = graph.find(&root.resource);
            held.extend(at.map(|at| (at, format!("held by {}", root.holder))));
        }
    }
    Ok(held)
}

/// Which of the graph's resources are garbage. One that would be but for what holds it stays for now, and is reported
/// as such: nobody tells when it is let go, so a later run looks again.
fn judge(
    ns: &Namespace,
    graph: &Graph,
    mut roots: Vec<(usize, Depth)>,
    held: &HashMap<usize, String>,
    report: &mut Report,
) -> Vec<bool> {
    roots.extend(graph.roots());
    let mut reached = mark(&graph.edges, &roots);
    let waiting: Vec<usize> = held.keys().copied().filter(|at| !reached[*at]).collect();
    if !waiting.is_empty() {
        roots.extend(waiting.iter().map(|at| (*at, Depth::Full)));
        reached = mark(&graph.edges, &roots);
    }
    report.stayed.extend(waiting.into_iter().map(|at| {
        let (resource, why) = (graph.nodes[at].resource.clone(), held[&at].clone());
        Item { namespace: ns.clone(), resource, why }
    }));
    reached.into_iter().map(|reached| !reached).collect()
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
