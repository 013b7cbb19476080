//! Putting a node agent together, and its life.

use super::adopt::adopt;
use super::config::{Form, Options};
use super::error::{Error, io};
use super::fences::Fences;
use super::herder::Herder;
use super::layout::Layout;
use super::lease::Lease;
use super::pods::PodSlots;
use super::pools::{Slots, Wanted};
use super::processes::ProcessSlots;
use super::provider::SlotProvider;
use super::report::Reporter;
use super::runtime::Runtimes;
use super::slot::{AT_ONCE, Latest, Node};
use super::snapshots::Snapshots;
use super::workload::Images;
use crate::image::ImageStore;
use crate::network::host::HostNetwork;
use crate::proto::atenode::ateom_herder_server::AteomHerderServer;
use crate::rpc::incoming::incoming;
use crate::rpc::{APISERVER, CONTROLLER, Link, Tls, client_identity};
use crate::snapshot::Stores;
use crate::telemetry::chain;
use std::fs::{File, TryLockError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

/// Connections that say nothing are probed after this long,
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// and closed when the probe is not answered for this long.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a stop waits for the steps under way; they are then left to the next node agent.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// How long a stop waits for answers to be taken; a followed log has no end of its own.
const GRACE: Duration = Duration::from_secs(3);
/// How often images are held against their budget.
const TRIM_EVERY: Duration = Duration::from_secs(60);
/// Orders of one connection at a time.
const MAX_ORDERS: usize = 1024;

/// Runs the node agent until `stop`.
///
/// # Errors
/// What keeps it from starting; after that, what ends its server. A slot that cannot be made is tried again for ever.
pub async fn run(options: Options, stop: CancellationToken) -> Result<(), Error> {
    let tls = options.tls.follow(&stop)?;
    let layout = Layout::create(&options.dir)?;
    let _lock = lock(&layout)?;
    let node = Arc::new(node(&options, layout).await?);
    let found = adopt(&node).await?;
    for id in node.snapshots.unhashed() {
        let node = node.clone();
        tokio::spawn(async move { node.snapshots.hash(&id).await });
    }
    let loops = CancellationToken::new();
    let slots = Slots::new(node.clone(), found, loops.clone());
    let follow = tokio::spawn(slots.clone().follow(wanted(options.form)));
    let reporter = Reporter {
        node: node.clone(),
        slots: slots.clone(),
        name: options.node,
        address: options.advertised,
        link: Link::to_apiserver(&options.apiserver, &tls)?,
        token_file: options.token_file,
    };
    let report = tokio::spawn(reporter.run(loops.clone()));
    let lease = tokio::spawn(slots.clone().follow_lease());
    let trim = tokio::spawn(trim_images(node.clone(), slots.clone()));

    let herder = Herder {
        node: node.clone(),
        slots: slots.clone(),
    };
    if options.stop_slots_on_exit {
        // Readiness that does not come would keep the stop waiting for nothing.
        let (stop, slots) = (stop.clone(), slots.clone());
        tokio::spawn(async move {
            stop.cancelled().await;
            for slot in slots.list() {
                slot.cancel_start("the node agent stops");
            }
        });
    }
    let served = serve(herder, options.listener, &tls, stop).await;

    loops.cancel();
    follow.abort();
    let ended = async { tokio::join!(slots.ended(), node.snapshots.are_published()) };
    if tokio::time::timeout(STOP_LIMIT, ended).await.is_err() {
        tracing::warn!("steps of slots, or publications, are left half done");
    }
    report.abort();
    lease.abort();
    trim.abort();
    if options.stop_slots_on_exit {
        end_all(&node, &slots).await;
    }
    served
}

/// Keeps images within their budget, for ever.
async fn trim_images(node: Arc<Node>, slots: Arc<Slots>) {
    loop {
        tokio::time::sleep(TRIM_EVERY).await;
        let used = slots.list().iter().flat_map(|slot| slot.images()).collect();
        if let Err(error) = node.images.trim(used).await {
            tracing::warn!(error = chain(&error), "images cannot be removed");
        }
    }
}

/// One node agent at a time works in a directory.
fn lock(layout: &Layout) -> Result<File, Error> {
    let path = layout.lock();
    let file = File::create(&path).map_err(io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse { path }),
        Err(TryLockError::Error(e)) => Err(io("lock", &path)(e)),
    }
}

/// Which slots there shall be.
fn wanted(form: Form) -> Wanted {
    match form {
        Form::Processes(processes) => Wanted::Processes(processes.pools),
        Form::Pods(pods) => Wanted::Pods(pods),
    }
}

async fn provider(options: &Options, layout: &Layout) -> Result<Arc<dyn SlotProvider>, Error> {
    let run_dir = options.run_dir.clone();
    let form = match &options.form {
        Form::Pods(pods) => {
            let pods = PodSlots::open(run_dir, layout.workers(), pods.clone())?;
            return Ok(Arc::new(pods));
        }
        Form::Processes(form) => form,
    };
    let network = HostNetwork::new(&form.network_name, form.network)?;
    let mut refused = form.refused.clone();
    refused.push(form.network);
    let (executable, logs) = (form.executable.clone(), layout.spare_logs());
    let provider = ProcessSlots::open(executable, run_dir, logs, network, refused);
    Ok(Arc::new(provider.await?))
}

async fn node(options: &Options, layout: Layout) -> Result<Node, Error> {
    let provider = provider(options, &layout).await?;
    let stores = Arc::new(Stores::new(options.s3.clone()));
    let runtimes = Runtimes::new(
        &layout,
        options.allowed_runtimes.clone(),
        options.allow_runsc_on_path,
        matches!(options.form, Form::Pods(_)),
        stores.clone(),
    );
    Ok(Node {
        images: Images::new(
            ImageStore::open(&layout.images()).await?,
            options.docker_config.clone(),
            options.image_bytes,
        ),
        runtimes,
        snapshots: Snapshots::open(&layout, stores, options.cache_bytes).await?,
        fences: Fences::open(layout.incarnation())?,
        lease: Lease::new(),
        provider,
        latest: Latest::new(),
        creating: Semaphore::new(AT_ONCE),
        changed: watch::Sender::new(()),
        layout,
    })
}

async fn serve(
    herder: Herder,
    listener: tokio::net::TcpListener,
    tls: &Tls,
    stop: CancellationToken,
) -> Result<(), Error> {
    let service = AteomHerderServer::with_interceptor(herder, only_engines);
    let late = {
        let stop = stop.clone();
        async move {
            stop.cancelled().await;
            tokio::time::sleep(GRACE).await;
        }
    };
    let connections = incoming(listener, tls.server()?, stop.clone());
    let server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .concurrency_limit_per_connection(MAX_ORDERS)
        .add_service(service)
        .serve_with_incoming_shutdown(connections, stop.cancelled_owned());
    tokio::select! {
        served = server => served.map_err(Error::Serve),
        () = late => Ok(()),
    }
}

/// Only those who move actors give orders to nodes: the API server, and the controller for golden actors.
fn only_engines(request: Request<()>) -> Result<Request<()>, Status> {
    match client_identity(&request)?.as_str() {
        APISERVER | CONTROLLER => Ok(request),
        other => Err(Status::permission_denied(format!(
            "{other} may not give orders to nodes"
        ))),
    }
}

/// Ends all slots and what they share.
async fn end_all(node: &Node, slots: &Slots) {
    for slot in slots.list() {
        if let Err(error) = slot.demolish().await {
            tracing::warn!(
                slot = slot.place.name(),
                error = chain(&error),
                "cannot end a slot"
            );
        }
    }
    if let Err(error) = node.provider.close().await {
        tracing::warn!(error = chain(&error), "cannot remove what slots share");
    }
}
