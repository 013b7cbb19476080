//! Connections for a server, TLS done: each handshake on its own, so that a slow client holds up nobody.

use rustls::ServerConfig;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// A client must have done its handshake by then.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Handshakes at once.
const MAX_HANDSHAKES: usize = 1024;
/// Connections that wait for the server to take them.
const MAX_WAITING: usize = 64;
/// After an error of accept (no file descriptors left) the next try waits.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections as they are ready.
pub type Incoming = ReceiverStream<io::Result<TlsStream<TcpStream>>>;

/// [`connections`] for a gRPC server.
pub fn incoming(listener: TcpListener, mut tls: ServerConfig, stop: CancellationToken) -> Incoming {
    tls.alpn_protocols = vec![b"h2".to_vec()];
    connections(listener, tls, stop)
}

/// Accepts until `stop`. Failed handshakes are the client's business and show up nowhere but in our debug log.
pub fn connections(listener: TcpListener, tls: ServerConfig, stop: CancellationToken) -> Incoming {
    let (ready, connections) = mpsc::channel(MAX_WAITING);
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let permits = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        while let Ok(permit) = permits.clone().acquire_owned().await {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (acceptor, ready) = (acceptor.clone(), ready.clone());
            tokio::spawn(async move {
                let _ = stream.set_nodelay(true);
                let handshake = acceptor.accept(stream);
                match tokio::time::timeout(HANDSHAKE_LIMIT, handshake).await {
                    Ok(Ok(stream)) => drop(ready.send(Ok(stream)).await),
                    Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                    Err(_) => tracing::debug!("TLS handshake took too long"),
                }
                drop(permit);
            });
        }
    }));
    ReceiverStream::new(connections)
}
