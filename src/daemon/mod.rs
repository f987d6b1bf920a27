//! The daemon: starts its parts in order, serves, and stops them in the reverse order.
//!
//! ```text
//! lock the root → take a dead daemon's mount over, or clear it → store → backend → volumes → snapshots (recover)
//!   → FUSE → collector → socket → tell systemd   …serve…   and back
//! ```
//! Each part has a function that starts it, calls the function of the next part, and takes its own
//! part down whatever came of that; so what a failed start has begun is taken down as well. The
//! first error is the daemon's, further ones are logged.
//!
//! A panic anywhere ends the daemon: what was acknowledged is on stable storage, and a fresh start
//! is the one well-trodden way back to a known state.

mod backend;
mod dying;
mod error;
mod handover;
mod ledger;
mod limits;
mod mount;
mod mounted;
pub mod offline;
mod root;
mod stop;

pub use error::Error;
pub use ledger::StoreLedger;

use std::cell::Cell;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sd_notify::NotifyState;
use tokio::runtime::Runtime;

use crate::config::{Collecting, Config};
use crate::crashpoint;
use crate::fuse::Kept;
use crate::gc::{self, Collector, Mounted};
use crate::grpc::status::with_causes;
use crate::grpc::{self, Context, Listener};
use crate::layer_store::{LayerStore, Restored};
use crate::meta::Store;
use crate::snapshot::{Recovery, Snapshots};
use crate::volume::Volumes;
use error::Result;
use mount::Mount;
use root::Root;
use stop::Stop;

/// How long requests that nobody waits for any more may hold up the end of the process.
const LAST_REQUESTS: Duration = Duration::from_secs(2);
/// How often the mount is looked at.
const WATCH: Duration = Duration::from_secs(1);

/// Runs the daemon until a signal or a failure ends it.
pub fn run(config: Config) -> Result<()> {
    limits::check_machine()?;
    if let Some(point) = crashpoint::arm_from_environment().map_err(Error::CrashPoint)? {
        tracing::warn!(point, "armed: thinfs will kill itself there");
    }
    let runtime = Runtime::new().map_err(|source| Error::Runtime("the async runtime", source))?;
    let stop = Stop::new();
    stop.on_signals(&runtime)?;
    stop.on_panics();
    limits::raise_open_files();
    let (started, kept) = (SystemTime::now(), Cell::default());
    let served = Daemon { config, stop: stop.clone(), runtime, started, kept }.run();
    match stop.take_failure() {
        Some(failure) => {
            log_second(served);
            Err(failure)
        }
        None => served,
    }
}

/// What every part needs.
struct Daemon {
    config: Config,
    stop: Stop,
    runtime: Runtime,
    started: SystemTime,
    /// What a daemon that died left for us.
    kept: Cell<Option<Kept>>,
}

impl Daemon {
    fn run(self) -> Result<()> {
        let served = self.with_root();
        self.runtime.shutdown_timeout(LAST_REQUESTS);
        if served.is_ok() {
            tracing::info!("stopped");
        }
        served
    }

    fn with_root(&self) -> Result<()> {
        let root = dying::lock_root(&self.config.root, &self.config.mount)?;
        match handover::inherit(&self.config.mount) {
            Some(kept) => self.kept.set(Some(kept)),
            None => {
                mount::clear_stale(&self.config.mount)?;
                limits::check_mount_point(&self.config.mount)?;
            }
        }
        let store = Store::open(&root.private("meta")?).map_err(Error::Store)?;
        self.with_volumes(&root, &Arc::new(store))
    }

    fn with_volumes(&self, root: &Root, store: &Arc<Store>) -> Result<()> {
        let backend = backend::start(&self.config, root, store)?;
        let volumes = Volumes::new(backend, self.config.max_active);
        let recorded = root.record_backend(volumes.backend().name());
        let served = recorded.and_then(|()| self.with_snapshots(root, store, &volumes));
        and_then_down(served, volumes.stop().map_err(Error::TakeDown))
    }

    fn with_snapshots(
        &self,
        root: &Root,
        store: &Arc<Store>,
        volumes: &Arc<Volumes>,
    ) -> Result<()> {
        let started = Snapshots::start(Arc::clone(store), Arc::clone(volumes));
        let (snapshots, recovery) = started.map_err(Error::Recover)?;
        report(&recovery);
        let served =
            if self.stop.is_requested() { Ok(()) } else { self.with_layers(root, &snapshots) };
        and_then_down(served, snapshots.close().map_err(Error::Close))
    }

    fn with_layers(&self, root: &Root, snapshots: &Arc<Snapshots>) -> Result<()> {
        let started = LayerStore::start(Arc::clone(snapshots), &root.private("layers")?);
        let (layers, restored) = started.map_err(|error| Error::Layers(Box::new(error)))?;
        report_layers(&restored);
        self.with_mount(snapshots, &layers)
    }

    fn with_mount(&self, snapshots: &Arc<Snapshots>, layers: &Arc<LayerStore>) -> Result<()> {
        let mount = Mount::new(&self.config.mount, snapshots, self.kept.take())?;
        layers.watch_images(mount.images_changed());
        let served = self.with_collector(snapshots, layers, &mount);
        and_then_down(served, mount.take_down(&self.stop))
    }

    fn with_collector(
        &self,
        snapshots: &Arc<Snapshots>,
        layers: &Arc<LayerStore>,
        mount: &Mount,
    ) -> Result<()> {
        let containerds = self.config.containerd_namespace.clone();
        let collector =
            Collector::new(Arc::clone(snapshots), containerds, schedule(self.config.gc));
        let (tree, asked) = (self.config.mount.clone(), Arc::clone(snapshots));
        let mounts = Mounted::new(Box::new(move || mounted::list(&tree, &asked)));
        collector.register(Arc::new(mounts));
        layers.collected_by(&collector);
        collector.start().map_err(Error::Collector)?;
        let served = self.with_socket(snapshots, &collector, layers, mount);
        collector.stop();
        served
    }

    fn with_socket(
        &self,
        snapshots: &Arc<Snapshots>,
        collector: &Arc<Collector>,
        layers: &Arc<LayerStore>,
        mount: &Mount,
    ) -> Result<()> {
        let listener = Listener::bind(&self.config.socket)?;
        let context = Arc::new(Context {
            snapshots: Arc::clone(snapshots),
            collector: Arc::clone(collector),
            layers: Arc::clone(layers),
            settle: mount.settle(),
            requests: mount.requests(),
            containerd_namespace: self.config.containerd_namespace.clone(),
            mount_form: self.config.mount_form,
            root: self.config.root.clone(),
            mount: self.config.mount.clone(),
            socket: self.config.socket.clone(),
            started: self.started,
        });
        tracing::info!(
            mount = %self.config.mount.display(),
            socket = %self.config.socket.display(),
            "serving snapshots"
        );
        notify(NotifyState::Ready);
        let served = self.runtime.block_on(async {
            tokio::select! {
                served = grpc::serve(listener, context, self.stop.requested(), self.stop.hurried()) => served,
                never = self.watch(mount) => match never {},
            }
        });
        notify(NotifyState::Stopping);
        Ok(served?)
    }

    /// A daemon whose mount somebody has taken away stops: it would answer for directories that
    /// nobody can reach.
    async fn watch(&self, mount: &Mount) -> Infallible {
        while mount.is_alive() {
            tokio::time::sleep(WATCH).await;
        }
        self.stop.failed(Error::Unmounted(self.config.mount.clone()));
        std::future::pending().await
    }
}

fn schedule(gc: Collecting) -> gc::Settings {
    gc::Settings {
        pause_threshold: gc.pause_threshold.get(),
        deletion_threshold: gc.deletion_threshold,
        mutation_threshold: gc.mutation_threshold,
        schedule_delay: gc.schedule_delay,
        startup_delay: gc.startup_delay,
    }
}

fn report(recovery: &Recovery) {
    let Recovery { snapshots, volumes, tombstones, reaped, kept, keeping, lost, unnamed } =
        recovery;
    tracing::info!(snapshots, volumes, tombstones, reaped, lost = lost.len(), "recovered");
    if let Some(reason) = keeping {
        tracing::warn!(kept, reason, "volumes that no record names are kept: see `thinfs check`");
    }
    for key in lost {
        tracing::error!(key, "the backend has lost this snapshot's volume");
    }
    for volume in unnamed {
        tracing::warn!(%volume, "a recorded volume belongs to no snapshot");
    }
}

fn report_layers(restored: &Restored) {
    let Restored { layers, rw_layers, images, abandoned, collected, stray_records, .. } = restored;
    tracing::info!(
        layers,
        rw_layers,
        images,
        abandoned,
        collected,
        stray_records,
        "layers restored"
    );
    for layer in &restored.unreadable {
        tracing::error!(layer, "a layer can't be read and is skipped");
    }
    for chain in &restored.without_record {
        tracing::error!(%chain, "a layer has lost its tar-split record: it can't be exported");
    }
}

/// systemd, if it started us, waits for these; nothing depends on its hearing them.
fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}

/// What serving came to, after the part below it was taken down.
fn and_then_down(served: Result<()>, down: Result<()>) -> Result<()> {
    match served {
        Ok(()) => down,
        Err(error) => {
            log_second(down);
            Err(error)
        }
    }
}

/// An error that follows from, or comes on top of, the one that the daemon ends with.
fn log_second(result: Result<()>) {
    if let Err(error) = result {
        tracing::error!("while stopping: {}", with_causes(&error));
    }
}
