//! Layers under leases, streams, imports: what the collector leaves and what it removes.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;
use crate::gc::{Collector, Report, Settings};
use crate::layer_store::{CreateRw, Error};
use crate::snapshot;
use crate::types::{LAYERS, Labels, LeaseId, Leased, Namespace, SnapshotKey};

fn here() -> Namespace {
    Namespace::new(LAYERS).unwrap()
}

fn collector(rig: &Rig) -> Arc<Collector> {
    let containerds = Namespace::new("containerd").unwrap();
    let snapshots = rig.fixture.snapshots().clone();
    let collector = Collector::new(snapshots, containerds, Settings::default());
    rig.layers().collected_by(&collector);
    collector
}

fn lease(collector: &Collector) -> LeaseId {
    collector.create_lease(&here(), None, Labels::new()).unwrap().id
}

fn held(kind: &str, id: impl ToString) -> Leased {
    Leased { kind: kind.to_owned(), id: id.to_string() }
}

fn went(report: Report) -> Vec<String> {
    assert_eq!(report.failed, Vec::<String>::new());
    report.collected.into_iter().map(|item| item.resource.to_string()).collect()
}

fn collect(collector: &Collector) -> Vec<String> {
    went(collector.collect(false).unwrap())
}

#[test]
fn a_leased_layer_outlives_its_references_and_a_restart_and_goes_with_the_lease() {
    let mut rig = Rig::native();
    let base = rig.register(&tar(&[("a", b"a")]), None);
    let top = rig.register(&tar(&[("b", b"b")]), Some(base));
    let gc = collector(&rig);
    let lease = lease(&gc);
    gc.hold(&here(), &lease, &held("layer", top)).unwrap();
    assert_eq!(gc.lease(&here(), &lease).unwrap().1, [held("layer", top)]);
    assert_eq!(rig.release(&base), []);
    assert_eq!(rig.release(&top), [], "the lease holds it");
    assert!(matches!(rig.layers().release(&top), Err(Error::NotRetained(_))));
    assert_eq!(collect(&gc), [""; 0]);

    drop(gc);
    rig.restart();
    let gc = collector(&rig);
    assert_eq!(rig.chains(), [base, top]);
    assert_eq!(collect(&gc), [""; 0]);
    rig.assert_tar(&top, &tar(&[("b", b"b")]));
    let dry = gc.collect(true).unwrap();
    assert_eq!(dry.collected, []);
    gc.delete_lease(&here(), &lease).unwrap();
    let gone = [format!("layer \"{top}\""), format!("layer \"{base}\"")];
    assert_eq!(went(gc.collect(true).unwrap()), gone, "a dry run tells");
    assert_eq!(rig.chains(), [base, top]);
    assert_eq!(collect(&gc), gone, "and what stands on another goes first");
    assert_eq!(rig.chains(), []);
    rig.assert_sound();
}

#[test]
fn a_layer_that_got_a_reference_again_stays_when_the_lease_ends() {
    let rig = Rig::native();
    let base = rig.register(&tar(&[("a", b"a")]), None);
    let gc = collector(&rig);
    let lease = lease(&gc);
    gc.hold(&here(), &lease, &held("layer", base)).unwrap();
    rig.release(&base);
    rig.layers().get(&base).unwrap();
    gc.delete_lease(&here(), &lease).unwrap();
    assert_eq!(collect(&gc), [""; 0]);
    assert_eq!(rig.release(&base), [base]);
    rig.assert_sound();
}

#[test]
fn leases_hold_layers_that_exist_in_the_layers_namespace_and_no_snapshot_there() {
    let rig = Rig::native();
    let base = rig.register(&tar(&[("a", b"a")]), None);
    let gc = collector(&rig);
    let other = Namespace::default();
    let elsewhere = gc.create_lease(&other, None, Labels::new()).unwrap().id;
    let crossing = gc.hold(&other, &elsewhere, &held("layer", base)).unwrap_err();
    assert!(crossing.to_string().contains("--namespace layers"), "{crossing}");
    let lease = lease(&gc);
    let absent = gc.hold(&here(), &lease, &held("rw", "web")).unwrap_err();
    assert!(matches!(absent, snapshot::Error::NotFound(_)), "{absent:?}");
    gc.hold(&here(), &lease, &held("layer", "sha256:1")).unwrap_err();
    gc.hold(&here(), &lease, &held("import", "import:0")).unwrap_err();
    let snapshot = gc.hold(&here(), &lease, &held("snapshot", base)).unwrap_err();
    assert!(snapshot.to_string().contains("belongs to the layer store"), "{snapshot}");
    assert_eq!(gc.lease(&here(), &lease).unwrap().1, []);
    // Nor does the label that makes everything unreferenced garbage mean anything there.
    let all = Labels::from([("thinfs.io/gc.collect".to_owned(), "unreferenced".to_owned())]);
    gc.create_namespace(&here(), all).unwrap_err();
}

#[test]
fn a_leased_read_write_layer_goes_with_the_lease_once_its_files_are_closed() {
    let rig = Rig::native();
    let base = rig.register(&tar(&[("a", b"a")]), None);
    let mut init = |root: BorrowedFd<'_>| {
        put(root, "init", b"i", 0o644);
        Ok(())
    };
    let create = CreateRw { parent: Some(base), init: Some(&mut init), ..Default::default() };
    let web = rig.layers().create_rw(&name("web"), create).unwrap();
    assert_eq!(rig.release(&base), [], "the read-write layer has it");
    let gc = collector(&rig);
    let lease = lease(&gc);
    gc.hold(&here(), &lease, &held("rw", "web")).unwrap();
    assert_eq!(rig.layers().release_rw(&name("web")).unwrap(), []);
    let again = rig.layers().release_rw(&name("web")).unwrap_err();
    assert!(matches!(again, Error::RwNotRetained(_)), "{again}");
    assert_eq!(collect(&gc), [""; 0]);
    gc.delete_lease(&here(), &lease).unwrap();
    let open = rig.fixture.snapshots().open(web.layer.snapshot).unwrap();
    let report = gc.collect(false).unwrap();
    let stayed: Vec<_> = report.stayed.iter().map(|item| item.why.as_str()).collect();
    assert_eq!(stayed, ["files of it are open", "rw \"web\" stays and refers to it"]);
    assert_eq!(report.collected, []);
    drop(open);
    assert_eq!(collect(&gc), ["rw \"web\"".to_owned(), format!("layer \"{base}\"")]);
    assert_eq!((rig.layers().rw_layers().unwrap().len(), rig.chains().len()), (0, 0));
    rig.assert_sound();
}

/// Writes nothing until it is told to, once it has said that somebody writes.
struct Slow<W> {
    out: W,
    begun: Option<Sender<()>>,
    go_on: Receiver<()>,
}

impl<W> Slow<W> {
    fn new(out: W) -> (Self, Receiver<()>, Sender<()>) {
        let ((begun, has_begun), (go, go_on)) = (channel(), channel());
        (Self { out, begun: Some(begun), go_on }, has_begun, go)
    }

    fn wait(&mut self) {
        if let Some(begun) = self.begun.take() {
            begun.send(()).unwrap();
            self.go_on.recv().unwrap();
        }
    }
}

impl<W: Write> Write for Slow<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.wait();
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl<R: Read> Read for Slow<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.wait();
        self.out.read(bytes)
    }
}

#[test]
fn a_stream_in_progress_holds_its_layer_against_the_collector_and_its_content_against_anybody() {
    let rig = Rig::native();
    let bytes = tar(&[("a", &[7; 100_000])]);
    let base = rig.register(&bytes, None);
    let gc = collector(&rig);
    let lease = lease(&gc);
    gc.hold(&here(), &lease, &held("layer", base)).unwrap();
    rig.release(&base);
    let layers = rig.layers();
    let export = |meanwhile: &dyn Fn()| {
        let mut out = Vec::new();
        let (slow, begun, go_on) = Slow::new(&mut out);
        std::thread::scope(|scope| {
            let go_on = go_on; // dropped when this fails, which ends the stream
            let stream = scope.spawn(move || layers.tar_stream(&base, slow, &NEVER).map(drop));
            begun.recv().unwrap();
            meanwhile();
            go_on.send(()).unwrap();
            stream.join().unwrap().unwrap();
        });
        assert!(out == bytes, "another tar came back");
    };
    export(&|| {
        gc.delete_lease(&here(), &lease).unwrap();
        assert_eq!(collect(&gc), [""; 0], "it is read");
        assert_eq!(rig.chains(), [base]);
    });
    assert_eq!(collect(&gc), [format!("layer \"{base}\"")], "and now it isn't");
    assert_eq!(rig.register(&bytes, None), base);
    export(&|| assert_eq!(rig.release(&base), [base], "who has the last reference may"));
    rig.assert_sound();
}

#[test]
fn an_import_that_runs_is_left_alone_and_what_a_failed_one_left_is_removed() {
    let rig = Rig::native();
    let gc = collector(&rig);
    let bytes = tar(&[("a", b"a")]);
    let left = SnapshotKey::new("import:999").unwrap();
    let snapshots = rig.fixture.snapshots();
    snapshots.prepare_with(&here(), &left, None, Labels::new(), &mut |_, _| {}).unwrap();
    let init = SnapshotKey::new("init:never").unwrap();
    let making = SnapshotKey::new("import:998").unwrap();
    snapshots.prepare_with(&here(), &making, None, Labels::new(), &mut |_, _| {}).unwrap();
    let nothing = &mut |_: &snapshot::Info, _: &mut crate::meta::Batch| {};
    snapshots.commit_with(&here(), &init, &making, Labels::new(), None, nothing).unwrap();
    let (slow, begun, go_on) = Slow::new(bytes.as_slice());
    let layers = rig.layers();
    std::thread::scope(|scope| {
        let go_on = go_on;
        let import = scope.spawn(move || register(layers, slow, None).map(|made| made.chain));
        begun.recv().unwrap();
        let mut gone = collect(&gc);
        gone.sort();
        assert_eq!(gone, ["import \"import:999\"", "import \"init:never\""]);
        go_on.send(()).unwrap();
        let chain = import.join().unwrap().unwrap();
        assert_eq!(rig.chains(), [chain]);
    });
    assert_eq!(collect(&gc), [""; 0]);
    rig.assert_sound();
}

#[test]
fn layers_tell_when_they_come_and_go_in_the_batch_that_makes_it_so() {
    let rig = Rig::native();
    let base = rig.register(&tar(&[("a", b"a")]), None);
    rig.register(&tar(&[("a", b"a")]), None);
    rig.release(&base);
    rig.release(&base);
    let events = rig.fixture.store().events_after(0, 100).unwrap();
    let layers = events.iter().filter(|event| event.event.topic.as_str().starts_with("/layer/"));
    let told: Vec<_> = layers.map(|e| (e.event.topic.to_string(), e.event.key.clone())).collect();
    let chain = base.to_string();
    assert_eq!(told, [("/layer/create".into(), chain.clone()), ("/layer/delete".into(), chain)]);
}
