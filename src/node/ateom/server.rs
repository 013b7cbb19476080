//! The executor's process: start, socket, signals, end.

use super::executor::Executor;
use super::{Bind, Error, convert};
use crate::network::Cidr;
use crate::proto::atenode::ateom_server::{Ateom, AteomServer};
use crate::proto::atenode::{
    CheckpointWorkloadRequest, CheckpointWorkloadResponse, FreezeWorkloadRequest,
    FreezeWorkloadResponse, ObserveWorkloadRequest, ObserveWorkloadResponse,
    PrepareWorkloadRequest, PrepareWorkloadResponse, RenewLeaseRequest, RenewLeaseResponse,
    RestoreWorkloadRequest, RestoreWorkloadResponse, RunWorkloadRequest, RunWorkloadResponse,
    StopWorkloadRequest, StopWorkloadResponse, ThawWorkloadRequest, ThawWorkloadResponse,
};
use crate::sandbox::{Orphans, Steps};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

/// Calls of one connection at a time; they wait for one another, but for observing.
const MAX_CALLS: usize = 16;

/// How long answers that are under way may take to arrive when it ends.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// What an executor needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// The worker's uid: a DNS label or UUID.
    pub uid: String,
    /// Directory of all executors of the node; small, for sockets and the runtime's state.
    pub dir: PathBuf,
    /// Where the node has this executor's own directories, and the pod: empty where the executor sees what the node does.
    pub binds: Vec<Bind>,
    /// Networks that sandboxes must not reach: nodes and control plane. Link-local ones are refused anyway.
    pub refused: Vec<Cidr>,
}

/// Where the executor of the worker `uid` listens.
pub fn socket_path(dir: &Path, uid: &str) -> PathBuf {
    own_dir(dir, uid).join("ateom.sock")
}

fn own_dir(dir: &Path, uid: &str) -> PathBuf {
    dir.join("ateoms").join(uid)
}

/// Runs the executor of one slot until SIGTERM, and then for as long as it has an assignment: the control plane suspends what runs on a
/// worker that leaves. A second SIGTERM ends it at once. To be called in the first thread of the process, before anything starts threads: that thread
/// reaps orphans from here on.
///
/// # Errors
/// [`Error::NotFirst`] when this is not the first process of its pid namespace; otherwise what kept it from serving.
pub fn run(options: Options) -> Result<(), Error> {
    if std::process::id() != 1 {
        return Err(Error::NotFirst);
    }
    let label = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if options.uid.is_empty() || !options.uid.chars().all(label) {
        return Err(Error::Invalid(format!("{:?} is no uid", options.uid)));
    }
    Orphans::reap_while(|orphans| serve(options, orphans))
        .map_err(Error::io("start the executor's threads"))?
}

async fn serve(options: Options, orphans: Orphans) -> Result<(), Error> {
    // First, for as the first process we get no signal that we do not ask for.
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::io("listen for SIGTERM"))?;
    let dir = own_dir(&options.dir, &options.uid);
    let socket = socket_path(&options.dir, &options.uid);
    prepare(&dir)?;
    let lent = options.binds.iter().flat_map(Bind::lent);
    let executor = Executor::new(
        &options.uid,
        &dir,
        &options.refused,
        lent.collect(),
        orphans,
    )
    .await?;
    let executor = Arc::new(executor);
    let listener = UnixListener::bind(&socket)
        .map_err(Error::io(format!("listen on {}", socket.display())))?;
    std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o600))
        .map_err(Error::io(format!("protect {}", socket.display())))?;
    let own_uid = nix::unistd::getuid().as_raw();
    let incoming = UnixListenerStream::new(listener).filter(move |stream| match stream {
        Ok(stream) => stream
            .peer_cred()
            .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own_uid),
        Err(_) => true,
    });
    tracing::info!(uid = %options.uid, socket = %socket.display(), "serving");
    let watching = tokio::spawn(executor.clone().watch());
    let leaving = CancellationToken::new();
    let server = tonic::transport::Server::builder()
        .concurrency_limit_per_connection(MAX_CALLS)
        .add_service(AteomServer::new(Service(executor.clone())))
        .serve_with_incoming_shutdown(incoming, leaving.clone().cancelled_owned());
    let left = async {
        terminate.recv().await;
        tracing::info!("asked to end");
        tokio::select! {
            () = executor.released() => {}
            _ = terminate.recv() => {}
        }
        leaving.cancel();
        tokio::time::sleep(LAST_ANSWERS).await;
    };
    let result = tokio::select! {
        result = server => result.map_err(|e| Error::Io {
            what: format!("serve on {}", socket.display()),
            source: std::io::Error::other(e),
        }),
        () = left => Ok(()),
    };
    watching.abort();
    executor.shut_down().await;
    let _ = std::fs::remove_file(&socket);
    result
}

/// Makes the directory, and removes what an earlier executor of the same uid left, which has ended: there is one per worker.
fn prepare(dir: &Path) -> Result<(), Error> {
    let what = format!("prepare {}", dir.display());
    std::fs::create_dir_all(dir).map_err(Error::io(what.clone()))?;
    std::fs::set_permissions(dir, PermissionsExt::from_mode(0o700))
        .map_err(Error::io(what.clone()))?;
    for name in ["ateom.sock", "netns"] {
        match std::fs::remove_file(dir.join(name)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(what)(e));
            }
            _ => {}
        }
    }
    Ok(())
}

struct Service(Arc<Executor>);

/// Runs `work` to its end, also when the caller goes away: half of a checkpoint is worse than one that nobody waits for.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Status> {
    let result = tokio::spawn(work).await;
    result
        .map_err(|_| Status::internal("the call failed; the executor's log says why"))?
        .map_err(Status::from)
}

#[tonic::async_trait]
impl Ateom for Service {
    async fn run_workload(
        &self,
        request: Request<RunWorkloadRequest>,
    ) -> Result<Response<RunWorkloadResponse>, Status> {
        let executor = self.0.clone();
        let order = convert::order(request.into_inner().spec, executor.netns())?;
        let steps: Steps = to_its_end(async move { executor.start(order, None).await }).await?;
        let steps = convert::timings(&steps);
        Ok(Response::new(RunWorkloadResponse { steps }))
    }

    async fn checkpoint_workload(
        &self,
        request: Request<CheckpointWorkloadRequest>,
    ) -> Result<Response<CheckpointWorkloadResponse>, Status> {
        let executor = self.0.clone();
        let request = request.into_inner();
        let image = convert::absolute("image_dir", request.image_dir)?;
        let work = async move { executor.checkpoint(request.epoch, &image).await };
        let (steps, clean) = to_its_end(work).await?;
        let steps = convert::timings(&steps);
        Ok(Response::new(CheckpointWorkloadResponse { steps, clean }))
    }

    async fn restore_workload(
        &self,
        request: Request<RestoreWorkloadRequest>,
    ) -> Result<Response<RestoreWorkloadResponse>, Status> {
        let executor = self.0.clone();
        let request = request.into_inner();
        let image = convert::absolute("image_dir", request.image_dir)?;
        let order = convert::order(request.spec, executor.netns())?;
        let work = async move { executor.start(order, Some(&image)).await };
        let steps = convert::timings(&to_its_end(work).await?);
        Ok(Response::new(RestoreWorkloadResponse { steps }))
    }

    async fn prepare_workload(
        &self,
        request: Request<PrepareWorkloadRequest>,
    ) -> Result<Response<PrepareWorkloadResponse>, Status> {
        let executor = self.0.clone();
        let spec = convert::ahead(request.into_inner().spec, executor.netns())?;
        let work = async move { executor.prepare(spec).await };
        let steps = convert::timings(&to_its_end(work).await?);
        Ok(Response::new(PrepareWorkloadResponse { steps }))
    }

    async fn stop_workload(
        &self,
        request: Request<StopWorkloadRequest>,
    ) -> Result<Response<StopWorkloadResponse>, Status> {
        let executor = self.0.clone();
        let epoch = request.into_inner().epoch;
        let work = async move { executor.stop(epoch).await };
        let steps = convert::timings(&to_its_end(work).await?);
        Ok(Response::new(StopWorkloadResponse { steps }))
    }

    async fn freeze_workload(
        &self,
        request: Request<FreezeWorkloadRequest>,
    ) -> Result<Response<FreezeWorkloadResponse>, Status> {
        let executor = self.0.clone();
        let epoch = request.into_inner().epoch;
        to_its_end(async move { executor.freeze(epoch).await }).await?;
        Ok(Response::new(FreezeWorkloadResponse {}))
    }

    async fn thaw_workload(
        &self,
        request: Request<ThawWorkloadRequest>,
    ) -> Result<Response<ThawWorkloadResponse>, Status> {
        let executor = self.0.clone();
        let epoch = request.into_inner().epoch;
        to_its_end(async move { executor.thaw(epoch).await }).await?;
        Ok(Response::new(ThawWorkloadResponse {}))
    }

    async fn renew_lease(
        &self,
        request: Request<RenewLeaseRequest>,
    ) -> Result<Response<RenewLeaseResponse>, Status> {
        let until = request.into_inner().until_boottime_ms;
        self.0.renew_lease(Duration::from_millis(until));
        Ok(Response::new(RenewLeaseResponse {}))
    }

    async fn observe_workload(
        &self,
        _: Request<ObserveWorkloadRequest>,
    ) -> Result<Response<ObserveWorkloadResponse>, Status> {
        Ok(Response::new(self.0.observe().await?))
    }
}
