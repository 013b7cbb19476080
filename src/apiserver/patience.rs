//! Clients that do not take what they asked for are cut off, so that an answer is in memory for a bounded time only.
//!
//! An answer goes out in pieces. Over HTTP/2 a piece waits while the client's window is shut, and only the stream of that
//! answer ends, by a reset: other requests on the connection are others'. Over HTTP/1.1 the connection is the request's
//! own, and the kernel ends it ([`limit`]), as it does with a client that reads nothing at all. What makes an answer waits
//! for as long as it has to, and ends when the answer does.

use axum::body::{Body, HttpBody};
use axum::response::Response;
use bytes::Bytes;
use http::Request;
use http::uri::PathAndQuery;
use hyper::body::{Frame, SizeHint};
use hyper::rt::Executor;
use std::error::Error;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// Largest piece of an answer: what is handed over for good at once.
const PIECE: usize = 32 << 10;
/// How often it is looked, within a patience, whether the client has taken something.
const LOOKS: u32 = 4;

tokio::task_local! {
    /// Of the HTTP/2 stream that a task is for.
    static GAUGE: Arc<Gauge>;
}

/// How an answer gets on.
#[derive(Default)]
struct Gauge {
    /// What was asked for.
    asked: OnceLock<PathAndQuery>,
    /// Pieces handed out.
    pieces: AtomicU64,
    /// The last one has not been taken.
    waits: AtomicBool,
}

impl Gauge {
    fn handed(&self) {
        self.pieces.fetch_add(1, Ordering::Relaxed);
        self.waits.store(true, Ordering::Release);
    }

    fn taken(&self) {
        self.waits.store(false, Ordering::Release);
    }

    /// Returns when one piece has waited for so long.
    async fn stalled(&self, patience: Duration) {
        let (mut seen, mut looks) = (0, 0);
        while looks < LOOKS {
            tokio::time::sleep(patience / LOOKS).await;
            let pieces = self.pieces.load(Ordering::Relaxed);
            let same = self.waits.load(Ordering::Acquire) && pieces == seen;
            looks = if same { looks + 1 } else { 0 };
            seen = pieces;
        }
    }
}

/// Runs the streams of HTTP/2 connections; drops one, which resets it, when its client takes nothing for so long.
#[derive(Clone, Debug)]
pub struct Streams(pub Duration);

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        let (patience, gauge) = (self.0, Arc::<Gauge>::default());
        tokio::spawn(async move {
            tokio::select! {
                _ = GAUGE.scope(gauge.clone(), stream) => {}
                () = gauge.stalled(patience) => {
                    let asked = gauge.asked.get().map(PathAndQuery::as_str);
                    tracing::info!(asked, "a stream is reset: its client takes nothing");
                }
            }
        });
    }
}

/// Notes what a stream is asked for, where it is watched.
pub fn asked<B>(request: &Request<B>) {
    let Some(asked) = request.uri().path_and_query() else {
        return;
    };
    // One stream is one request; without a stream there is nobody to tell.
    let _ = GAUGE.try_with(|gauge| gauge.asked.set(asked.clone()));
}

/// An answer in pieces, where its stream is watched.
pub fn paced(response: Response) -> Response {
    match GAUGE.try_with(Arc::clone) {
        Ok(gauge) => response.map(|body| Body::new(Paced::new(body, gauge))),
        Err(_) => response,
    }
}

/// Ends a connection when its client acknowledges nothing, or keeps its window shut, for so long.
pub fn limit(socket: &impl AsFd, patience: Duration) {
    let milliseconds = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
    let option = nix::sys::socket::sockopt::TcpUserTimeout;
    if let Err(error) = nix::sys::socket::setsockopt(socket, option, &milliseconds) {
        tracing::debug!(%error, "a connection has no time limit");
    }
}

/// Says why a connection broke.
pub fn broken(error: &(dyn Error + 'static)) {
    let mut causes = std::iter::successors(Some(error), |&error| error.source());
    let late = causes.any(|cause| {
        let cause = cause.downcast_ref::<std::io::Error>();
        cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::TimedOut)
    });
    if late {
        tracing::info!("a connection is closed: its client takes nothing");
    } else {
        tracing::debug!(%error, "a connection broke");
    }
}

/// A body in pieces.
struct Paced {
    body: Body,
    /// What is left of a frame.
    rest: Bytes,
    /// Whether its end comes by itself, after the last piece was taken, and not with that piece.
    apart: bool,
    gauge: Arc<Gauge>,
}

impl Paced {
    fn new(body: Body, gauge: Arc<Gauge>) -> Self {
        let exact = body.size_hint().exact();
        Self {
            apart: exact.is_none_or(|size| size > PIECE as u64),
            body,
            rest: Bytes::new(),
            gauge,
        }
    }

    fn piece(&mut self, mut data: Bytes) -> Frame<Bytes> {
        self.rest = data.split_off(data.len().min(PIECE));
        self.gauge.handed();
        Frame::data(data)
    }
}

impl HttpBody for Paced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.gauge.taken();
        if !self.rest.is_empty() {
            let rest = std::mem::take(&mut self.rest);
            return Poll::Ready(Some(Ok(self.piece(rest))));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            frame.map(|frame| match frame.into_data() {
                Ok(data) => self.piece(data),
                Err(other) => other,
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        !self.apart && self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + rest);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}
