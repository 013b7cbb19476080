//! Connections to workers, kept open between requests, by address. An address's port belongs to one assignment, so a
//! connection never leads to another actor than the one it was made for.

use super::probe;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// The body of a request on its way to an actor: held whole, or streamed.
pub(super) type Body = Either<Full<Bytes>, Incoming>;

/// How long a connection to a worker may take to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an idle connection is kept: less than the time after which usual servers close theirs (2 to 5 s), so that a
/// request seldom meets a connection that is just being closed.
const IDLE_TIMEOUT: Duration = Duration::from_millis(1500);
/// Idle connections kept to one worker.
const MAX_IDLE_PER_ADDRESS: usize = 32;
/// Workers to which idle connections are kept.
const MAX_ADDRESSES: usize = 8192;
/// A worker that is silent for this long is probed: its node may be lost.
const PROBE_AFTER: Duration = Duration::from_secs(15);
/// How long a worker may leave what was sent unacknowledged, or take nothing more of it: as long as the loss of a node may
/// take to be noticed.
const STALL_TIMEOUT: Duration = Duration::from_secs(120);
/// Largest response head in bytes.
const MAX_RESPONSE_HEAD: usize = 64 * 1024;

#[derive(Default)]
pub(super) struct Pool {
    idle: Mutex<HashMap<String, VecDeque<Idle>>>,
}

struct Idle {
    sender: SendRequest<Body>,
    since: Instant,
}

/// A response, and how it was got.
pub(super) struct Reply {
    pub(super) response: Response<Incoming>,
    /// How long connecting took, if it was needed.
    pub(super) connect: Option<Duration>,
}

/// Why there is no response.
#[derive(Debug)]
pub(super) enum SendError {
    /// Nothing of the request has been sent; it can be sent elsewhere.
    NotSent {
        request: Box<Request<Body>>,
        why: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The connection broke when the request, or a part of it, had been sent, and before the response's head was complete.
    Broken {
        /// It was an idle connection, so that most likely nobody read the request.
        reused: bool,
        why: hyper::Error,
    },
    /// The actor is somewhere else by now, and whoever has the request is silent.
    Left,
}

impl Pool {
    /// Sends `request` to `address` on an idle connection or a new one. Dropping the future closes the connection.
    pub(super) async fn send(
        self: &Arc<Self>,
        address: &str,
        mut request: Request<Body>,
    ) -> Result<Reply, SendError> {
        // Bounded by what is idle: each one is tried once, and those that failed are gone.
        while let Some(sender) = self.take(address) {
            match self.try_send(address, sender, request, true).await {
                Ok(response) => {
                    let connect = None;
                    return Ok(Reply { response, connect });
                }
                Err(SendError::NotSent { request: whole, .. }) => request = *whole,
                Err(broken) => return Err(broken),
            }
        }
        let start = Instant::now();
        let sender = match connect(address).await {
            Ok(sender) => sender,
            Err(why) => {
                let request = Box::new(request);
                return Err(SendError::NotSent { request, why });
            }
        };
        let connect = Some(start.elapsed());
        let response = self.try_send(address, sender, request, false).await?;
        Ok(Reply { response, connect })
    }

    /// Closes the idle connections to `address`.
    pub(super) fn forget(&self, address: &str) {
        self.idle().remove(address);
    }

    /// Closes connections that have been idle for too long.
    pub(super) fn sweep(&self) {
        self.idle().retain(|_, waiting| {
            waiting.retain(Idle::usable);
            !waiting.is_empty()
        });
    }

    async fn try_send(
        self: &Arc<Self>,
        address: &str,
        mut sender: SendRequest<Body>,
        request: Request<Body>,
        reused: bool,
    ) -> Result<Response<Incoming>, SendError> {
        match sender.try_send_request(request).await {
            Ok(response) => {
                self.keep(address, sender);
                Ok(response)
            }
            Err(mut failed) => Err(match failed.take_message() {
                Some(request) => SendError::NotSent {
                    request: Box::new(request),
                    why: Box::new(failed.into_error()),
                },
                None => SendError::Broken {
                    reused,
                    why: failed.into_error(),
                },
            }),
        }
    }

    fn take(&self, address: &str) -> Option<SendRequest<Body>> {
        let mut idle = self.idle();
        let waiting = idle.get_mut(address)?;
        // The last one used is the least likely to be dead.
        let sender = std::iter::from_fn(|| waiting.pop_back()).find(Idle::usable);
        if waiting.is_empty() {
            idle.remove(address);
        }
        Some(sender?.sender)
    }

    /// Keeps the connection for another request once the response's body has been read.
    fn keep(self: &Arc<Self>, address: &str, mut sender: SendRequest<Body>) {
        let pool = self.clone();
        let address = address.to_owned();
        tokio::spawn(async move {
            // An error: the connection has ended, or became something else than HTTP.
            if poll_fn(|cx| sender.poll_ready(cx)).await.is_ok() {
                pool.put(address, sender);
            }
        });
    }

    fn put(&self, address: String, sender: SendRequest<Body>) {
        let mut idle = self.idle();
        if idle.len() >= MAX_ADDRESSES && !idle.contains_key(&address) {
            return;
        }
        let waiting = idle.entry(address).or_default();
        if waiting.len() >= MAX_IDLE_PER_ADDRESS {
            waiting.pop_front();
        }
        let since = Instant::now();
        waiting.push_back(Idle { sender, since });
    }

    fn idle(&self) -> MutexGuard<'_, HashMap<String, VecDeque<Idle>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Idle {
    fn usable(&self) -> bool {
        self.sender.is_ready() && self.since.elapsed() < IDLE_TIMEOUT
    }
}

async fn connect(
    address: &str,
) -> Result<SendRequest<Body>, Box<dyn std::error::Error + Send + Sync>> {
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address));
    let stream = connecting.await.map_err(io::Error::from)??;
    stream.set_nodelay(true)?;
    probe::when_silent(&stream, PROBE_AFTER);
    probe::when_stalled(&stream, STALL_TIMEOUT);
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_RESPONSE_HEAD)
        .handshake(TokioIo::new(stream))
        .await?;
    let address = address.to_owned();
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(address, %error, "connection to a worker ended");
        }
    });
    Ok(sender)
}
