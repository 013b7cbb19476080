//! Answers the kubelet: alive is who answers at all, ready who was not told to stop, and whose server takes connections. And Prometheus,
//! at the same address: what this process counted.

use crate::telemetry::metrics;
use anyhow::Context;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Probes answered at a time.
const MAX_PROBES: usize = 16;
/// How long a probe may take.
const PROBE_LIMIT: Duration = Duration::from_secs(2);
/// How long the server behind may take to take a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// After a failed accept (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where probes come in.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct ProbeArgs {
    /// Address to answer /livez, /readyz and /metrics on, by HTTP; default: nowhere
    #[arg(long, value_name = "ADDRESS")]
    listen_probes: Option<SocketAddr>,
}

impl ProbeArgs {
    /// Answers from now on until the process ends; after `stop` it is alive and not ready.
    pub(super) async fn answer(&self, stop: &CancellationToken) -> anyhow::Result<()> {
        self.answer_for(stop, None).await
    }

    /// The same for who passes connections on to `behind`: ready while they are taken there.
    pub(super) async fn answer_for(
        &self,
        stop: &CancellationToken,
        behind: Option<SocketAddr>,
    ) -> anyhow::Result<()> {
        let Some(address) = self.listen_probes else {
            return Ok(());
        };
        let listener = TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
        let stop = stop.clone();
        tokio::spawn(accept(listener, Subject { stop, behind }));
        Ok(())
    }
}

/// What is asked about.
#[derive(Clone)]
struct Subject {
    stop: CancellationToken,
    behind: Option<SocketAddr>,
}

impl Subject {
    /// Why it is not ready.
    async fn unready(&self) -> Option<&'static str> {
        if self.stop.is_cancelled() {
            return Some("stopping");
        }
        let taken = tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(self.behind?)).await;
        (!matches!(taken, Ok(Ok(_)))).then_some("the server behind takes no connections")
    }
}

async fn accept(listener: TcpListener, subject: Subject) {
    let places = Arc::new(Semaphore::new(MAX_PROBES));
    // The semaphore is never closed.
    while let Ok(place) = places.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let subject = subject.clone();
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(PROBE_LIMIT, probe(stream, subject)).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a probe");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn probe(stream: TcpStream, subject: Subject) {
    let service = service_fn(move |request: Request<Incoming>| {
        let subject = subject.clone();
        async move { Ok::<_, Infallible>(answer(request.uri().path(), &subject).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).keep_alive(false);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a probe ended");
    }
}

async fn answer(path: &str, subject: &Subject) -> Response<String> {
    let (code, said) = match path {
        "/livez" => (StatusCode::OK, "ok"),
        "/readyz" => match subject.unready().await {
            Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
            None => (StatusCode::OK, "ok"),
        },
        "/metrics" => match metrics::text() {
            Ok(said) => {
                let mut response = Response::new(said);
                let media = HeaderValue::from_static(metrics::MEDIA_TYPE);
                response.headers_mut().insert(CONTENT_TYPE, media);
                return response;
            }
            Err(_) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "a number cannot be written",
            ),
        },
        _ => (
            StatusCode::NOT_FOUND,
            "there are /livez, /readyz and /metrics",
        ),
    };
    let mut response = Response::new(format!("{said}\n"));
    *response.status_mut() = code;
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        said.lines().next().unwrap_or_default().to_owned()
    }

    #[tokio::test]
    async fn ready_until_told_to_stop() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let behind = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let subject = Subject {
            stop: stop.clone(),
            behind: Some(behind.local_addr().unwrap()),
        };
        tokio::spawn(accept(listener, subject));
        assert_eq!(get(address, "/readyz").await, "HTTP/1.1 200 OK");
        assert_eq!(get(address, "/livez").await, "HTTP/1.1 200 OK");
        assert_eq!(get(address, "/").await, "HTTP/1.1 404 Not Found");
        assert_eq!(get(address, "/metrics").await, "HTTP/1.1 200 OK");
        let stopping = "HTTP/1.1 503 Service Unavailable";
        let taken = behind.local_addr().unwrap();
        drop(behind);
        assert_eq!(get(address, "/readyz").await, stopping);
        let _behind = TcpListener::bind(taken).await.unwrap();
        assert_eq!(get(address, "/readyz").await, "HTTP/1.1 200 OK");
        stop.cancel();
        assert_eq!(get(address, "/readyz").await, stopping);
        assert_eq!(get(address, "/livez").await, "HTTP/1.1 200 OK");
    }

    #[tokio::test]
    async fn those_that_say_nothing_leave_room_for_others() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let subject = Subject {
            stop: CancellationToken::new(),
            behind: None,
        };
        tokio::spawn(accept(listener, subject));
        let mut silent = vec![];
        for _ in 0..MAX_PROBES {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let answered = tokio::time::timeout(3 * PROBE_LIMIT, get(address, "/livez")).await;
        assert_eq!(answered.unwrap(), "HTTP/1.1 200 OK");
    }
}
