//! One request: to whom, where they are, there and back.

use super::answer::{self, Answer};
use super::bindings::Bindings;
use super::pool::{self, Pool, Reply, SendError};
use super::{Binding, ResolveError, Target, headers, metrics, tunnel};
use bytes::Bytes;
use http::header::HOST;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::upgrade::OnUpgrade;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Request bodies up to this many bytes, of known length, are held so that they can be sent again.
const MAX_REPLAY: u64 = 64 * 1024;
/// How long a client may take to send such a body.
const REPLAY_READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause before a request that no worker has seen is offered again where its actor is still said to be: first, and at most.
const OFFER_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Longest wait for the head of an actor's response. An agent may think for long.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3600);
/// Longest pause between two looks at whether a silent actor is still there.
const MAX_LOOK_PAUSE: Duration = Duration::from_secs(60);
/// Answers 200 on a host that is no actor's, for probes.
const HEALTH_PATH: &str = "/healthz";
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// The body of a response on its way to a client.
pub(super) type ResponseBody = Either<Full<Bytes>, Counted>;

/// What all requests share.
pub(super) struct Forwarder {
    pub(super) bindings: Arc<Bindings>,
    pub(super) pool: Arc<Pool>,
    /// One permit per request in flight, from its head to the end of its response or tunnel.
    pub(super) in_flight: Arc<Semaphore>,
    /// Tunnels, which outlive the request that opened them.
    pub(super) tunnels: TaskTracker,
    /// Ends the tunnels.
    pub(super) cut: CancellationToken,
    /// How long a request that no worker has seen is offered again.
    pub(super) offer_timeout: Duration,
    /// How long an actor is silent before somebody asks whether it is still there.
    pub(super) look_after: Duration,
}

/// A request on its way, with what is needed to send it again.
struct Journey {
    target: Target,
    request: Request<pool::Body>,
    /// As `request`, where its body is held.
    again: Option<Request<Full<Bytes>>>,
    idempotent: bool,
}

/// Where the time before the response went.
#[derive(Default)]
struct Timing {
    resolve: Option<Duration>,
    /// Parts of it.
    steps: Vec<(String, Duration)>,
    connect: Option<Duration>,
    upstream: Duration,
}

impl Forwarder {
    /// Answers one request of the client at `peer`.
    pub(super) async fn handle(
        &self,
        peer: IpAddr,
        request: Request<Incoming>,
    ) -> Response<ResponseBody> {
        let began = Instant::now();
        let response = match self.try_handle(peer, request).await {
            Ok(response) => response,
            Err(answer) => (*answer).map(Either::Left),
        };
        metrics::answered(response.status(), began.elapsed());
        response
    }

    async fn try_handle(
        &self,
        peer: IpAddr,
        mut request: Request<Incoming>,
    ) -> Result<Response<ResponseBody>, Answer> {
        let host = host(&request);
        let target = match Target::parse(
            host.as_ref()
                .and_then(|h| h.to_str().ok())
                .unwrap_or_default(),
        ) {
            Ok(target) => target,
            Err(_) if is_health_check(&request) => return Err(answer::text(StatusCode::OK, "ok")),
            Err(error) => return Err(error.into()),
        };
        let Ok(permit) = self.in_flight.clone().try_acquire_owned() else {
            return Err(answer::overloaded());
        };
        if request.method() == Method::CONNECT {
            let why = "actors do not take CONNECT; send the request itself";
            return Err(answer::text(StatusCode::METHOD_NOT_ALLOWED, why));
        }
        let protocol = headers::upgrade(request.version(), request.headers());
        let client = protocol.is_some().then(|| hyper::upgrade::on(&mut request));
        // A target has been read from it, so there is one.
        let host = host.unwrap_or(HeaderValue::from_static(""));
        rewrite(&mut request, peer, host, protocol);
        let journey = Journey::begin(target, request).await?;
        let (reply, timing) = self.travel(journey).await?;
        self.answer(reply, timing, client, permit)
    }

    /// To the actor and back; once more where the first met a worker that the actor has left. What nobody has seen is offered
    /// until somebody finds out that the worker is lost.
    async fn travel(&self, journey: Journey) -> Result<(Reply, Timing), Answer> {
        let Journey {
            target,
            mut request,
            mut again,
            idempotent,
        } = journey;
        let mut timing = Timing::default();
        let mut binding = match self.bindings.known(&target) {
            Some(binding) => binding,
            None => {
                let found = timed(&mut timing.resolve, self.bindings.resolve(&target)).await?;
                timing.steps.clone_from(&found.steps);
                found
            }
        };
        let mut pause = OFFER_PAUSE.0;
        let mut until = None;
        loop {
            let failed = match self.send(&target, &binding, request, &mut timing).await? {
                Ok(reply) => return Ok((reply, timing)),
                Err(failed) => failed,
            };
            log(&target, &binding, &failed);
            self.pool.forget(&binding.address);
            let until = *until.get_or_insert_with(|| Instant::now() + self.offer_timeout);
            let renewed =
                timed(&mut timing.resolve, self.bindings.renew(&target, &binding)).await?;
            timing.steps.extend(renewed.steps.iter().cloned());
            let moved = renewed.address != binding.address;
            request = match (failed, again.take()) {
                (SendError::NotSent { request, .. }, kept) if Instant::now() < until => {
                    again = kept;
                    *request
                }
                (SendError::NotSent { .. }, _) => return Err(unreachable(&target)),
                (SendError::Broken { reused, .. }, Some(kept))
                    if idempotent || (reused && moved) =>
                {
                    kept.map(Either::Left)
                }
                (SendError::Left, Some(kept)) if idempotent => kept.map(Either::Left),
                (SendError::Broken { .. } | SendError::Left, _) => {
                    return Err(unanswered(&target));
                }
            };
            if !moved {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(OFFER_PAUSE.1);
            }
            binding = renewed;
        }
    }

    async fn send(
        &self,
        target: &Target,
        binding: &Binding,
        request: Request<pool::Body>,
        timing: &mut Timing,
    ) -> Result<Result<Reply, SendError>, Answer> {
        let start = Instant::now();
        let sending = self.pool.send(&binding.address, request);
        let sent = tokio::select! {
            biased;
            sent = tokio::time::timeout(RESPONSE_TIMEOUT, sending) => sent,
            () = self.left(target, binding) => return Ok(Err(SendError::Left)),
        };
        let sent = sent.map_err(|_| {
            answer::text(
                StatusCode::GATEWAY_TIMEOUT,
                "the actor did not answer in time",
            )
        })?;
        if let Ok(reply) = &sent {
            timing.connect = reply.connect;
            timing.upstream = start
                .elapsed()
                .saturating_sub(reply.connect.unwrap_or_default());
        }
        Ok(sent)
    }

    /// Returns when the actor is known to be somewhere else: where a worker's pod is gone, nobody is left who would break its connections.
    async fn left(&self, target: &Target, binding: &Binding) {
        let mut pause = self.look_after;
        loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_LOOK_PAUSE);
            let now = match self.bindings.known(target) {
                Some(known) => Ok(known),
                None => self.bindings.resolve(target).await,
            };
            if now.is_ok_and(|now| now.address != binding.address) {
                return;
            }
        }
    }

    fn answer(
        &self,
        reply: Reply,
        timing: Timing,
        client: Option<OnUpgrade>,
        permit: OwnedSemaphorePermit,
    ) -> Result<Response<ResponseBody>, Answer> {
        let mut response = reply.response;
        let protocol = response.headers().get(http::header::UPGRADE).cloned();
        headers::remove_hop_by_hop(response.headers_mut());
        timing.write(response.headers_mut());
        // The version is the connection's own business.
        *response.version_mut() = Version::default();
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response.map(|body| {
                Either::Right(Counted {
                    body,
                    _permit: permit,
                })
            }));
        }
        let (Some(client), Some(protocol)) = (client, protocol) else {
            let why = "the actor switched protocols without being asked";
            return Err(answer::text(StatusCode::INTERNAL_SERVER_ERROR, why));
        };
        headers::set_upgrade(response.headers_mut(), protocol);
        let actor = hyper::upgrade::on(&mut response);
        self.tunnels
            .spawn(tunnel::join(client, actor, permit, self.cut.clone()));
        Ok(response.map(|_| Either::Left(Full::default())))
    }
}

impl Journey {
    /// Reads the body first where it is small.
    async fn begin(target: Target, request: Request<Incoming>) -> Result<Self, Answer> {
        let idempotent = request.method().is_idempotent();
        let small = request
            .body()
            .size_hint()
            .upper()
            .is_some_and(|n| n <= MAX_REPLAY);
        let (head, body) = request.into_parts();
        let (body, again) = if small {
            let whole = read(body).await?;
            let again = Request::from_parts(head.clone(), Full::new(whole.clone()));
            (Either::Left(Full::new(whole)), Some(again))
        } else {
            (Either::Right(body), None)
        };
        Ok(Self {
            target,
            request: Request::from_parts(head, body),
            again,
            idempotent,
        })
    }
}

impl Timing {
    /// Only where the actor had to be asked for: on every other request it would only cost.
    fn write(&self, headers: &mut http::HeaderMap) {
        let Some(resolve) = self.resolve else { return };
        let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
        let mut text = format!("resolve;dur={:.3}", ms(resolve));
        for (step, took) in &self.steps {
            text += &format!(", {step};dur={:.3}", ms(*took));
        }
        if let Some(connect) = self.connect {
            text += &format!(", connect;dur={:.3}", ms(connect));
        }
        text += &format!(", upstream;dur={:.3}", ms(self.upstream));
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.append(SERVER_TIMING, value);
        }
    }
}

async fn timed(
    total: &mut Option<Duration>,
    asking: impl Future<Output = Result<Binding, ResolveError>>,
) -> Result<Binding, ResolveError> {
    let start = Instant::now();
    let binding = asking.await;
    *total = Some(total.unwrap_or_default() + start.elapsed());
    binding
}

async fn read(body: Incoming) -> Result<Bytes, Answer> {
    match tokio::time::timeout(REPLAY_READ_TIMEOUT, body.collect()).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(_)) => Err(answer::text(
            StatusCode::BAD_REQUEST,
            "the request's body broke off",
        )),
        Err(_) => {
            let why = "the request's body did not come in time";
            Err(answer::text(StatusCode::REQUEST_TIMEOUT, why))
        }
    }
}

/// The host that a request names: in its URI (HTTP/2, or the absolute form, which wins: RFC 9112, 3.2.2), else in its
/// one Host header.
fn host(request: &Request<Incoming>) -> Option<HeaderValue> {
    if let Some(authority) = request.uri().authority() {
        return HeaderValue::from_str(authority.as_str()).ok();
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => Some(host.clone()),
        _ => None,
    }
}

fn is_health_check(request: &Request<Incoming>) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD) && request.uri().path() == HEALTH_PATH
}

/// Makes of a client's request the one that the actor gets.
fn rewrite(
    request: &mut Request<Incoming>,
    peer: IpAddr,
    host: HeaderValue,
    protocol: Option<HeaderValue>,
) {
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    *request.version_mut() = Version::HTTP_11;
    let headers = request.headers_mut();
    headers::remove_hop_by_hop(headers);
    headers::join_cookies(headers);
    headers::set_forwarded(headers, peer, &host);
    headers.insert(HOST, host);
    if let Some(protocol) = protocol {
        headers::set_upgrade(headers, protocol);
    }
}

fn unreachable(target: &Target) -> Answer {
    let why = format!("{target} cannot be reached at its worker; try again");
    answer::text(StatusCode::SERVICE_UNAVAILABLE, &why)
}

fn unanswered(target: &Target) -> Answer {
    let why = format!(
        "the connection to {target} broke before it answered; it may have acted on the request"
    );
    answer::text(StatusCode::SERVICE_UNAVAILABLE, &why)
}

fn log(target: &Target, binding: &Binding, failed: &SendError) {
    let (sent, why): (_, &dyn std::fmt::Display) = match failed {
        SendError::NotSent { why, .. } => (false, why),
        SendError::Broken { why, .. } => (true, why),
        SendError::Left => (true, &"the actor has left it"),
    };
    tracing::info!(%target, address = binding.address, epoch = binding.epoch.0, sent, error = %why, "no answer from a worker");
}

/// An actor's response body, which counts as a request in flight until it has been read or dropped.
pub(super) struct Counted {
    body: Incoming,
    _permit: OwnedSemaphorePermit,
}

impl hyper::body::Body for Counted {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
