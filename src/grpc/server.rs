//! Serves all services on the socket until told to stop.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use super::proto::containerd::services::snapshots::v1::snapshots_server::SnapshotsServer;
use super::proto::thinfs::admin::v1::admin_server::AdminServer;
use super::proto::thinfs::admin::v1::leases_server::LeasesServer;
use super::proto::thinfs::admin::v1::namespaces_server::NamespacesServer;
use super::proto::thinfs::layers::v1::layers_server::LayersServer;
use super::{Context, Listener, SocketError, admin, call, containerd, layers, leases, namespaces};

/// How long running requests may take to end after the stop.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the last answers may take to reach their callers.
const FLUSHING: Duration = Duration::from_millis(100);

/// What went wrong while serving.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The socket can't be listened on.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The server ended by itself.
    #[error("the gRPC server failed")]
    Transport(#[from] tonic::transport::Error),
}

/// Serves until `stop` is ready and the requests of that moment have been answered, or
/// [`PATIENCE`] has passed, or `hurry` is ready. Connections that ask nothing are not waited for: containerd keeps one
/// open for ever. The socket's file is gone when this returns.
pub async fn serve(
    listener: Listener,
    context: Arc<Context>,
    stop: impl Future<Output = ()> + Send,
    hurry: impl Future<Output = ()> + Send,
) -> Result<(), ServeError> {
    let (listener, _file) = listener.into_tokio()?;
    let (stopping, mut stopped) = tokio::sync::watch::channel(false);
    let events = Arc::clone(context.snapshots.store());
    let stop = async move {
        stop.await;
        // Readers of events wait for what won't come any more.
        events.end_events();
        stopping.send_replace(true);
    };
    let answered = async move {
        // An error means that the sender is gone: the server has ended.
        let _ = stopped.wait_for(|stopped| *stopped).await;
        let deadline = Instant::now() + PATIENCE;
        loop {
            tokio::time::sleep(FLUSHING).await;
            if call::running() == 0 || Instant::now() > deadline {
                return call::running();
            }
        }
    };
    let serving = Server::builder()
        .add_service(SnapshotsServer::new(containerd::Snapshots::new(Arc::clone(&context))))
        .add_service(NamespacesServer::new(namespaces::Namespaces::new(Arc::clone(&context))))
        .add_service(LeasesServer::new(leases::Leases::new(Arc::clone(&context))))
        .add_service(LayersServer::new(layers::Layers::new(Arc::clone(&context))))
        .add_service(AdminServer::new(admin::Admin::new(context)))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop);
    tokio::select! {
        served = serving => served?,
        running = answered => if running > 0 {
            tracing::warn!(running, "requests still running after {PATIENCE:?} are dropped");
        },
        () = hurry => {
            tracing::warn!(running = call::running(), "hurrying: requests still running are dropped");
        }
    }
    Ok(())
}
