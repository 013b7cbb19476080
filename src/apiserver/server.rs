//! HTTPS for a router: HTTP/2 and HTTP/1.1, the client's certificate at hand, an orderly end.

use super::authn::PeerCertificates;
use super::memory;
use super::patience::{self, Streams};
use axum::Router;
use axum::extract::Request;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Streams of one HTTP/2 connection: kube-apiserver sends all watches over one.
const MAX_STREAMS: u32 = 4096;
/// Connections at once.
const MAX_CONNECTIONS: usize = 8192;
/// A client must have done its TLS handshake, and sent its headers, by then.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often an idle HTTP/2 connection is asked whether it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// A client that takes nothing of an answer for so long is cut off.
const STALL: Duration = Duration::from_secs(30);
/// After the signal to end, requests under way have this long.
const DRAIN: Duration = Duration::from_secs(10);
/// After an error of accept (no file descriptors left) the next try waits.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Serves a router until `shutdown`; returns when the last request is done, or [`DRAIN`] has passed.
pub async fn serve(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    router: Router,
    shutdown: CancellationToken,
) {
    tokio::spawn(memory::give_back(shutdown.clone()));
    serve_with(listener, tls, router, shutdown, STALL).await;
}

/// The same with another patience for clients that take nothing.
pub(super) async fn serve_with(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    router: Router,
    shutdown: CancellationToken,
    stall: Duration,
) {
    let acceptor = TlsAcceptor::from(tls);
    let graceful = GracefulShutdown::new();
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &permits) => accepted,
            () = shutdown.cancelled() => break,
        };
        let Some((stream, permit)) = accepted else {
            tokio::time::sleep(ACCEPT_BACKOFF).await;
            continue;
        };
        let (acceptor, router, watcher) = (acceptor.clone(), router.clone(), graceful.watcher());
        tokio::spawn(async move {
            connection(stream, acceptor, router, watcher, stall).await;
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("requests were still under way at the end");
    }
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = permits.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, permit)),
        Err(error) => {
            tracing::warn!(%error, "cannot accept a connection");
            None
        }
    }
}

async fn connection(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    router: Router,
    watcher: Watcher,
    stall: Duration,
) {
    let _ = stream.set_nodelay(true);
    patience::limit(&stream, stall);
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await;
    let stream = match handshake {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => return tracing::debug!("TLS handshake took too long"),
    };
    let certificates = stream.get_ref().1.peer_certificates();
    let peer =
        certificates.map(|c| PeerCertificates(c.iter().map(|c| c.clone().into_owned()).collect()));
    let service = router.map_request(move |request: Request<hyper::body::Incoming>| {
        patience::asked(&request);
        let mut request = request.map(axum::body::Body::new);
        if let Some(peer) = &peer {
            request.extensions_mut().insert(peer.clone());
        }
        request
    });
    let service = service.map_response(patience::paced);
    let mut builder = auto::Builder::new(Streams(stall));
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(KEEP_ALIVE);
    let serving = builder
        .serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(service));
    if let Err(error) = watcher.watch(serving.into_owned()).await {
        patience::broken(&*error);
    }
}
