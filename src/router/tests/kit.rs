//! A router on a real port, actors that are real HTTP servers, and a resolver that says what a test wants.

use crate::api::names::Epoch;
use crate::router::{Binding, Options, ResolveError, Resolver, Target, serve};
use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

pub(crate) const HOST: &str = "a.team.actors.resources.substrate.ate.dev";
/// Nothing in these tests takes as long unless it hangs.
pub(crate) const LONG: Duration = Duration::from_secs(20);

pub(crate) type Body = BoxBody<Bytes, Infallible>;

pub(crate) fn body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed()
}

/// Resolves every target to what was last `say`d, and counts how often it was asked.
pub(crate) struct Fake {
    says: Mutex<Result<Binding, ResolveError>>,
    pub(crate) asked: AtomicUsize,
    /// Taken for each answer; a test that wants to hold answers back starts with none.
    pub(crate) gate: Semaphore,
}

impl Fake {
    pub(crate) fn new(says: Result<Binding, ResolveError>) -> Arc<Self> {
        Arc::new(Self {
            says: Mutex::new(says),
            asked: AtomicUsize::new(0),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
        })
    }

    pub(crate) fn at(address: &str) -> Arc<Self> {
        Self::new(Ok(binding(address, 1)))
    }

    pub(crate) fn say(&self, says: Result<Binding, ResolveError>) {
        *self.says.lock().unwrap() = says;
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

pub(crate) fn binding(address: &str, epoch: u64) -> Binding {
    Binding {
        steps: vec![],
        address: address.to_owned(),
        epoch: Epoch(epoch),
    }
}

#[async_trait]
impl Resolver for Fake {
    async fn resolve(&self, _: &Target, _: Duration) -> Result<Binding, ResolveError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.gate.acquire().await.unwrap().forget();
        self.says.lock().unwrap().clone()
    }
}

/// A router that stops when dropped.
pub(crate) struct Router {
    pub(crate) address: String,
    pub(crate) shutdown: CancellationToken,
    pub(crate) serving: JoinHandle<()>,
}

impl Drop for Router {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.serving.abort();
    }
}

pub(crate) async fn router(resolver: Arc<dyn Resolver>, options: Options) -> Router {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(serve(listener, resolver, options, shutdown.clone()));
    Router {
        address,
        shutdown,
        serving,
    }
}

/// A router that sends everything to `actor`.
pub(crate) async fn router_to(actor: &Actor) -> Router {
    router(Fake::at(&actor.address), Options::default()).await
}

/// An HTTP server that vanishes with its connections when dropped.
pub(crate) struct Actor {
    pub(crate) address: String,
    pub(crate) connections: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Actor {
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// An actor that answers each request by `answer`.
pub(crate) async fn actor<F, R>(answer: F) -> Actor
where
    F: Fn(Request<Incoming>) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Response<Body>> + Send + 'static,
{
    raw_actor(move |stream| {
        let answer = answer.clone();
        async move {
            let service = service_fn(move |request| {
                let answering = answer(request);
                async move { Ok::<_, Infallible>(answering.await) }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
                .await;
        }
    })
    .await
}

/// An actor that does as it likes with each connection.
pub(crate) async fn raw_actor<F, R>(serve: F) -> Actor
where
    F: Fn(TcpStream) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    let task = tokio::spawn(async move {
        // Dropped with this task, which ends the connections.
        let mut served = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            served.spawn(serve(stream));
        }
    })
    .abort_handle();
    Actor {
        address,
        connections,
        task,
    }
}

/// An actor that says `text` to everything.
pub(crate) async fn actor_saying(text: &'static str) -> Actor {
    actor(move |_| async move { Response::new(body(text)) }).await
}

/// An address at which nobody listens.
pub(crate) async fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

/// A connection of a client.
pub(crate) struct Client {
    pub(crate) sender: SendRequest<Body>,
    connection: AbortHandle,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

pub(crate) async fn client(router: &Router) -> Client {
    let stream = TcpStream::connect(&router.address).await.unwrap();
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(async move { drop(connection.with_upgrades().await) });
    Client {
        sender,
        connection: connection.abort_handle(),
    }
}

impl Client {
    pub(crate) async fn send(&mut self, request: Request<Body>) -> Response<Incoming> {
        let sending = async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
        };
        tokio::time::timeout(LONG, sending).await.unwrap().unwrap()
    }

    /// Sends a request and reads the whole answer.
    pub(crate) async fn ask(&mut self, request: Request<Body>) -> Response<String> {
        whole(self.send(request).await).await
    }
}

pub(crate) async fn whole(response: Response<Incoming>) -> Response<String> {
    let (head, body) = response.into_parts();
    let body = tokio::time::timeout(LONG, body.collect()).await.unwrap();
    let text = String::from_utf8(body.unwrap().to_bytes().to_vec()).unwrap();
    Response::from_parts(head, text)
}

/// A request to the actor on a connection of its own.
pub(crate) async fn ask(router: &Router, request: Request<Body>) -> Response<String> {
    client(router).await.ask(request).await
}

pub(crate) fn request(method: &str, content: &'static str) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri("/")
        .header("host", HOST)
        .body(body(content))
        .unwrap()
}

pub(crate) fn get() -> Request<Body> {
    request("GET", "")
}

/// Waits until `condition` holds.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(LONG, waiting)
        .await
        .expect("the condition comes true");
}

/// Waits until nobody listens at `address` any more.
pub(crate) async fn refused(address: &str) {
    let waiting = async { while TcpStream::connect(address).await.is_ok() {} };
    tokio::time::timeout(LONG, waiting)
        .await
        .expect("the port closes");
}
