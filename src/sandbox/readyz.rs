//! Waiting until a container answers its readiness probe.

use super::Error;
use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Time for one attempt.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause between attempts: the first are close together, for a restored actor answers within milliseconds.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);
/// Where a template says nothing.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);
/// However much a template asks for.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(600);

/// An HTTP probe: GET `path` on `port` until the status is 2xx or 3xx.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Path, with a leading slash.
    pub path: String,
    /// TCP port in the sandbox.
    pub port: u16,
    /// Bound of the whole wait.
    pub timeout: Duration,
}

/// Probes `ip` until it answers.
///
/// # Errors
/// [`Error::NotReady`] after the probe's timeout, with what the last attempt said.
pub async fn wait(ip: IpAddr, probe: &Probe) -> Result<(), Error> {
    let bound = probe.timeout.min(MAX_TIMEOUT);
    let start = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let last = match timeout(ATTEMPT_TIMEOUT.min(bound), attempt(ip, probe)).await {
            Ok(Ok(status)) if status.is_success() || status.is_redirection() => return Ok(()),
            Ok(Ok(status)) => format!("{} answered {status}", probe.path),
            Ok(Err(e)) => format!("{}: {e}", probe.path),
            Err(_) => format!("{} did not answer", probe.path),
        };
        if start.elapsed() + pause >= bound {
            return Err(Error::NotReady { after: bound, last });
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn attempt(
    ip: IpAddr,
    probe: &Probe,
) -> Result<http::StatusCode, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(SocketAddr::new(ip, probe.port)).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = AbortOnDrop(tokio::spawn(connection));
    let request = http::Request::get(&probe.path)
        .header(http::header::HOST, format!("{ip}:{}", probe.port))
        .header(http::header::USER_AGENT, "ate-readyz")
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let status = sender.send_request(request).await?.status();
    drop(connection);
    Ok(status)
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Router, routing::get};
    use std::sync::atomic::{AtomicU32, Ordering};

    async fn serve(app: Router) -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move { axum::serve(listener, app).await });
        port
    }

    #[tokio::test]
    async fn waits_until_the_probe_succeeds() {
        static CALLS: AtomicU32 = AtomicU32::new(0);
        let port = serve(Router::new().route(
            "/ready",
            get(|| async {
                if CALLS.fetch_add(1, Ordering::SeqCst) < 3 {
                    http::StatusCode::SERVICE_UNAVAILABLE
                } else {
                    http::StatusCode::FOUND
                }
            }),
        ))
        .await;
        let probe = Probe {
            path: "/ready".into(),
            port,
            timeout: Duration::from_secs(10),
        };
        wait([127, 0, 0, 1].into(), &probe).await.unwrap();
        assert_eq!(CALLS.load(Ordering::SeqCst), 4);
    }

    #[tokio::test]
    async fn says_what_the_last_attempt_said() {
        let port = serve(Router::new()).await;
        let probe = Probe {
            path: "/nothing".into(),
            port,
            timeout: Duration::from_millis(50),
        };
        let error = wait([127, 0, 0, 1].into(), &probe).await.unwrap_err();
        assert!(
            matches!(&error, Error::NotReady { last, .. } if last.contains("404")),
            "{error}"
        );
    }
}
