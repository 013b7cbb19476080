//! TLS in front of a server that is not ours and lies beside us: it speaks plain TCP on the loopback, or takes new certificates only
//! when it is started anew. What comes in is passed on as it is.

use super::incoming::connections;
use super::peer::common_name;
use futures::StreamExt;
use nix::sys::socket::{setsockopt, sockopt};
use rustls::ServerConfig;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

/// Connections at once; more wait.
const MAX_CONNECTIONS: usize = 4096;
/// The server must take a connection within this time.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// A client that is silent for so many seconds is asked whether it is still there.
const SILENCE: u32 = 60;

/// Whose connections are passed on.
#[derive(Clone, Debug)]
pub enum Clients {
    /// Everybody's: the server asks for keys itself.
    Any,
    /// Those of our own processes with these names in their certificates.
    Ours(Arc<[String]>),
}

impl Clients {
    fn take(&self, stream: &TlsStream<TcpStream>) -> bool {
        let Clients::Ours(names) = self else {
            return true;
        };
        let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let name = shown.first().and_then(|leaf| common_name(leaf));
        name.is_some_and(|name| names.contains(&name))
    }
}

/// Passes connections of `clients` on to `behind` until `stop`. `tls` has looked at certificates already. No ALPN: what is spoken is
/// the server's and its clients' business.
pub async fn serve(
    listener: TcpListener,
    mut tls: ServerConfig,
    clients: Clients,
    behind: SocketAddr,
    stop: CancellationToken,
) {
    tls.alpn_protocols.clear();
    let mut all = connections(listener, tls, stop.clone());
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let (Ok(place), Some(Ok(stream))) =
        (places.clone().acquire_owned().await, all.next().await)
    {
        if !clients.take(&stream) {
            tracing::warn!("a client that this server is not for");
            continue;
        }
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            pass(stream, behind).await;
            drop(place);
        }));
    }
}

async fn pass(mut stream: TlsStream<TcpStream>, behind: SocketAddr) {
    let tcp = stream.get_ref().0;
    let _ = setsockopt(tcp, sockopt::KeepAlive, &true);
    let _ = setsockopt(tcp, sockopt::TcpKeepIdle, &SILENCE);
    let server = match tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(behind)).await {
        Ok(Ok(server)) => server,
        Ok(Err(error)) => return tracing::warn!(%error, "the server takes no connections"),
        Err(_) => return tracing::warn!("the server takes no connections in time"),
    };
    let _ = server.set_nodelay(true);
    let mut server = server;
    if let Err(error) = copy_bidirectional(&mut stream, &mut server).await {
        tracing::debug!(%error, "a connection ended");
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Authority;
    use super::super::{APISERVER, ROUTER, STORE};
    use super::*;
    use crate::identity::Leaf;
    use crate::identity::tls::client_config;
    use rustls::pki_types::ServerName;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// What comes back of a word through a front for the API server alone, by a client that shows what `shows` says.
    async fn echoed(authority: &Authority, shows: Option<&str>) -> std::io::Result<String> {
        let behind = TcpListener::bind("127.0.0.1:0").await?;
        let address = behind.local_addr()?;
        tokio::spawn(async move {
            let (mut stream, _) = behind.accept().await?;
            let (mut read, mut write) = stream.split();
            tokio::io::copy(&mut read, &mut write).await
        });
        let front = TcpListener::bind("127.0.0.1:0").await?;
        let to = front.local_addr()?;
        let server = authority.issue(STORE).load().unwrap().server().unwrap();
        let clients = Clients::Ours([APISERVER.to_owned()].into());
        let stop = CancellationToken::new();
        let _stop = stop.clone().drop_guard();
        tokio::spawn(serve(front, server, clients, address, stop));

        let file = |path| std::fs::read_to_string(path).unwrap();
        let files = authority.issue(shows.unwrap_or(STORE));
        let leaf = shows.map(|_| Leaf {
            chain: file(&files.cert),
            key: file(&files.key),
        });
        let config = client_config(leaf.as_ref(), &file(&files.ca)).unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from(STORE).unwrap();
        let mut tls = connector
            .connect(name, TcpStream::connect(to).await?)
            .await?;
        tls.write_all(b"word").await?;
        tls.shutdown().await?;
        let mut said = String::new();
        tls.read_to_string(&mut said).await?;
        Ok(said)
    }

    #[tokio::test]
    async fn only_those_whom_the_server_is_for_are_passed_on() {
        let authority = Authority::new();
        assert_eq!(echoed(&authority, Some(APISERVER)).await.unwrap(), "word");
        for other in [Some(ROUTER), None] {
            let refused = echoed(&authority, other).await;
            assert!(!refused.is_ok_and(|said| said == "word"), "{other:?}");
        }
    }
}
