//! A connection to one server or to a cluster, and what its errors mean.

use super::{StoreOptions, StoreTls};
use crate::store::StoreError;
use ::redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use ::redis::cluster::ClusterClientBuilder;
use ::redis::cluster_async::ClusterConnection;
use ::redis::cluster_routing::{Route, SingleNodeRoutingInfo, SlotAddr};
use ::redis::io::tcp::TcpSettings;
use ::redis::{
    Client, ClientTlsConfig, Cmd, ConnectionInfo, ErrorKind, IntoConnectionInfo, Pipeline,
    RedisError, RedisResult, ServerErrorKind, TlsCertificates, Value,
};
use std::time::Duration;
use tokio::sync::watch;

/// To connect, and to connect again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A server that acknowledges nothing for so long is gone, even if nobody closed the connection.
const GONE: Duration = Duration::from_secs(15);
/// How often a lost connection is made again before calls fail; each later call tries anew.
const RECONNECTS: usize = 2;
/// Between two attempts to connect with new certificates.
const RENEW_AGAIN: Duration = Duration::from_secs(5);
/// The cluster client's own attempts: redirections count.
const CLUSTER_RETRIES: u32 = 4;

/// One multiplexed connection; clones share it. Where certificates change, another one takes its place.
#[derive(Clone)]
pub struct Link(watch::Receiver<Connection>);

#[derive(Clone)]
enum Connection {
    /// To one server.
    Single(ConnectionManager),
    /// To every node of a cluster.
    Cluster(ClusterConnection),
}

impl Link {
    /// Connects; a call that takes longer than `response` fails.
    pub async fn connect(options: &StoreOptions, response: Duration) -> RedisResult<Link> {
        let mut certificates = options.tls.clone();
        if let Some(certificates) = &mut certificates {
            certificates.mark_unchanged();
        }
        let (sender, now) = watch::channel(Connection::open(options, response).await?);
        if let Some(certificates) = certificates {
            tokio::spawn(renew(sender, certificates, options.clone(), response));
        }
        Ok(Link(now))
    }

    fn now(&self) -> Connection {
        self.0.borrow().clone()
    }

    /// One command, routed by its keys.
    pub async fn send(&self, command: &Cmd) -> RedisResult<Value> {
        let value = match self.now() {
            Connection::Single(mut c) => c.req_packed_command(command).await?,
            Connection::Cluster(mut c) => c.req_packed_command(command).await?,
        };
        value.extract_error()
    }

    /// Several commands in a row on one connection to the node that has a slot; an answer for each, errors among them.
    pub async fn send_all(&self, commands: Pipeline, slot: u16) -> RedisResult<Vec<Value>> {
        let count = commands.len();
        match self.now() {
            Connection::Single(mut c) => c.send_packed_commands(&commands, 0, count).await,
            Connection::Cluster(mut c) => {
                let route = Route::new(slot, SlotAddr::Master);
                let node = SingleNodeRoutingInfo::SpecificNode(route);
                c.route_pipeline(commands, 0, count, node).await
            }
        }
    }
}

/// Connects anew whenever there are other certificates, as long as somebody has the link: the client cannot exchange them.
async fn renew(
    link: watch::Sender<Connection>,
    mut certificates: watch::Receiver<Option<StoreTls>>,
    options: StoreOptions,
    response: Duration,
) {
    let renewing = async {
        while certificates.changed().await.is_ok() {
            let new = loop {
                match Connection::open(&options, response).await {
                    Ok(new) => break new,
                    Err(error) => {
                        tracing::warn!(%error, "the store cannot be reached with the new certificates");
                        tokio::time::sleep(RENEW_AGAIN).await;
                    }
                }
            };
            link.send_replace(new);
        }
    };
    tokio::select! {
        () = renewing => {}
        () = link.closed() => {}
    }
}

impl Connection {
    async fn open(options: &StoreOptions, response: Duration) -> RedisResult<Connection> {
        let tls = match &options.tls {
            Some(tls) => Some(certificates(tls.borrow().as_ref())?),
            None => None,
        };
        if options.cluster {
            let mut builder = ClusterClientBuilder::new(options.urls.iter().map(String::as_str))
                .connection_timeout(CONNECT_TIMEOUT)
                .response_timeout(response)
                .retries(CLUSTER_RETRIES);
            if let Some(tls) = tls {
                builder = builder.certs(tls);
            }
            let connection = builder.build()?.get_async_connection().await?;
            return Ok(Connection::Cluster(connection));
        }
        let url = options.urls.first().map(String::as_str).unwrap_or_default();
        let info = with_settings(url.into_connection_info()?);
        let client = match tls {
            Some(tls) => Client::build_with_tls(info, tls)?,
            None => Client::open(info)?,
        };
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(response))
            .set_number_of_retries(RECONNECTS);
        let manager = ConnectionManager::new_with_config(client, config).await?;
        Ok(Connection::Single(manager))
    }
}

fn certificates(tls: Option<&StoreTls>) -> RedisResult<TlsCertificates> {
    let none_yet = || std::io::Error::other("there is no certificate for this process yet");
    let tls = tls.ok_or_else(none_yet)?;
    Ok(TlsCertificates {
        root_cert: tls.ca.clone(),
        client_tls: tls.client.clone().map(|c| ClientTlsConfig {
            client_cert: c.certificate,
            client_key: c.key,
        }),
    })
}

fn with_settings(info: ConnectionInfo) -> ConnectionInfo {
    let settings = TcpSettings::default()
        .set_nodelay(true)
        .set_user_timeout(GONE);
    info.set_tcp_settings(settings)
}

/// Whether the same call may succeed later.
pub fn is_transient(e: &RedisError) -> bool {
    match e.kind() {
        ErrorKind::Io | ErrorKind::ClusterConnectionNotFound | ErrorKind::Parse => true,
        ErrorKind::Server(kind) => not_executed(kind),
        _ => false,
    }
}

/// Whether it is certain that the server did nothing.
pub fn is_without_effect(e: &RedisError) -> bool {
    match e.kind() {
        ErrorKind::Server(kind) => not_executed(kind),
        _ => e.is_connection_refusal(),
    }
}

fn not_executed(kind: ServerErrorKind) -> bool {
    use ServerErrorKind::{Ask, BusyLoading, ClusterDown, MasterDown, Moved, ReadOnly, TryAgain};
    matches!(
        kind,
        Ask | BusyLoading | ClusterDown | MasterDown | Moved | ReadOnly | TryAgain
    )
}

/// What the caller is told: a script that failed is a bug, all else is the store being away.
pub fn to_store_error(e: RedisError) -> StoreError {
    let of_script = e.detail().is_some_and(|d| d.contains("@user_script"));
    if of_script && !is_transient(&e) && e.code() != Some("OOM") {
        return StoreError::Corrupt {
            what: "the store's data".to_owned(),
            why: e.to_string(),
        };
    }
    StoreError::Unavailable(Box::new(Away {
        why: why(&e),
        source: e,
    }))
}

/// Why the store is away, in a user's words.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
struct Away {
    why: &'static str,
    source: RedisError,
}

fn why(e: &RedisError) -> &'static str {
    match (e.code(), e.kind()) {
        (Some("OOM"), _) => "its memory is full: delete actors, or give it more memory (maxmemory)",
        (Some("MISCONF"), _) => "it cannot write to its disk",
        (Some("NOAUTH" | "WRONGPASS" | "NOPERM"), _) | (_, ErrorKind::AuthenticationFailed) => {
            "it refuses our user or password"
        }
        (Some("BUSY"), _) => "it is busy with a script",
        (_, ErrorKind::Server(ServerErrorKind::BusyLoading)) => "it is still loading its data",
        (_, ErrorKind::Server(kind)) if not_executed(kind) => "it is failing over",
        (_, ErrorKind::Server(_)) => "it answered with an error",
        _ if e.is_timeout() => "it does not answer in time",
        _ => "it cannot be reached",
    }
}
