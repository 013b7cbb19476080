//! Accepts connections, within limits, until told to stop.

use super::Resolver;
use super::bindings::Bindings;
use super::forward::Forwarder;
use super::probe;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Connections of clients at a time; more wait in the listener's queue.
const MAX_CONNECTIONS: usize = 16_384;
/// Largest request head in bytes; 431 beyond.
const MAX_REQUEST_HEAD: usize = 64 * 1024;
/// Requests that one HTTP/2 connection has under way.
const MAX_STREAMS: u32 = 256;
/// A silent HTTP/2 connection is probed after this long, and closed when it does not answer for as long again.
const PING: Duration = Duration::from_secs(20);
/// A silent client's machine is probed after this long.
const PROBE_AFTER: Duration = Duration::from_secs(60);
/// Between two looks at what has expired.
const SWEEP: Duration = Duration::from_secs(1);
/// After a failed accept (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Limits of a router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Longest wait for an actor to wake.
    pub resolve_timeout: Duration,
    /// How long a request that no worker has seen is offered again, to where its actor is said to be.
    pub offer_timeout: Duration,
    /// How long an actor is silent about a request before it is asked whether it is still there; then after twice as long, and so on.
    pub look_after: Duration,
    /// Requests in flight; 503 with Retry-After beyond.
    pub max_requests: usize,
    /// How long a client may take to send a request's head, and to send nothing between two requests.
    pub head_timeout: Duration,
    /// How long requests in flight have to end after shutdown began; then they are cut.
    pub drain: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            resolve_timeout: Duration::from_secs(30),
            offer_timeout: Duration::from_secs(10),
            look_after: Duration::from_secs(5),
            max_requests: 10_000,
            head_timeout: Duration::from_secs(30),
            drain: Duration::from_secs(20),
        }
    }
}

struct Router {
    forwarder: Forwarder,
    http: auto::Builder<TokioExecutor>,
    head_timeout: Duration,
    shutdown: CancellationToken,
    /// Ends everything at once.
    cut: CancellationToken,
}

/// Serves `listener` (HTTP/1.1, and HTTP/2 by prior knowledge) until `shutdown`: then no new connections are accepted,
/// idle ones are closed, and what is in flight has `options.drain` to end. Returns when nothing is left.
pub async fn serve(
    listener: TcpListener,
    resolver: Arc<dyn Resolver>,
    options: Options,
    shutdown: CancellationToken,
) {
    let router = Arc::new(Router::new(resolver, &options, shutdown.clone()));
    let connections = TaskTracker::new();
    // Whoever drops this future leaves nothing behind.
    let _cut = router.cut.clone().drop_guard();
    tokio::select! {
        () = accept(listener, &router, &connections) => {}
        () = sweep(&router) => {}
        () = shutdown.cancelled() => {}
    }
    connections.close();
    router.forwarder.tunnels.close();
    let drained = async {
        connections.wait().await;
        router.forwarder.tunnels.wait().await;
    };
    if timeout(options.drain, drained).await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "cutting requests that did not end in time"
        );
        router.cut.cancel();
        connections.wait().await;
        router.forwarder.tunnels.wait().await;
    }
}

async fn accept(listener: TcpListener, router: &Arc<Router>, connections: &TaskTracker) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // The semaphore is never closed.
    while let Ok(place) = places.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let router = router.clone();
                connections.spawn(async move {
                    router.connection(stream, peer).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn sweep(router: &Router) {
    let mut ticks = interval(SWEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        router.forwarder.pool.sweep();
        router.forwarder.bindings.sweep();
    }
}

impl Router {
    fn new(resolver: Arc<dyn Resolver>, options: &Options, shutdown: CancellationToken) -> Self {
        let mut http = auto::Builder::new(TokioExecutor::new());
        http.http1()
            .timer(TokioTimer::new())
            .header_read_timeout(options.head_timeout)
            .max_buf_size(MAX_REQUEST_HEAD);
        http.http2()
            .timer(TokioTimer::new())
            .max_header_list_size(MAX_REQUEST_HEAD as u32)
            .max_concurrent_streams(MAX_STREAMS)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING);
        let cut = CancellationToken::new();
        Self {
            forwarder: Forwarder {
                bindings: Bindings::new(resolver, options.resolve_timeout),
                pool: Arc::default(),
                in_flight: Arc::new(Semaphore::new(options.max_requests)),
                tunnels: TaskTracker::new(),
                cut: cut.clone(),
                offer_timeout: options.offer_timeout,
                look_after: options.look_after,
            },
            http,
            head_timeout: options.head_timeout,
            shutdown,
            cut,
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        if let Err(error) = stream.set_nodelay(true) {
            return tracing::debug!(%error, "client is gone");
        }
        probe::when_silent(&stream, PROBE_AFTER);
        let begun = Arc::new(AtomicBool::new(false));
        let service = {
            let (router, begun) = (self.clone(), begun.clone());
            service_fn(move |request: Request<Incoming>| {
                begun.store(true, Ordering::Relaxed);
                let router = router.clone();
                async move { Ok::<_, Infallible>(router.forwarder.handle(peer.ip(), request).await) }
            })
        };
        let io = TokioIo::new(stream);
        let serving = self.http.serve_connection_with_upgrades(io, service);
        tokio::pin!(serving);
        // hyper's own timeout begins only once it knows which HTTP it is.
        let first = sleep(self.head_timeout);
        tokio::pin!(first);
        let (mut waiting, mut stopping) = (true, false);
        loop {
            tokio::select! {
                ended = &mut serving => {
                    if let Err(error) = ended {
                        tracing::debug!(%peer, error, "connection of a client ended");
                    }
                    return;
                }
                () = &mut first, if waiting => {
                    waiting = false;
                    if !begun.load(Ordering::Relaxed) {
                        return;
                    }
                }
                () = self.shutdown.cancelled(), if !stopping => {
                    stopping = true;
                    serving.as_mut().graceful_shutdown();
                }
                () = self.cut.cancelled() => return,
            }
        }
    }
}
