//! One request, its redirects, and what its answer means.

use std::time::Duration;

use reqwest::header::{ACCEPT, HeaderMap, RANGE, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Response, StatusCode};
use serde::Deserialize;

use super::auth::Next;
use super::patience::{Patience, Trouble};
use super::{MANIFESTS, Registry};
use crate::image::{Digest, ImageError, Result};

const MANIFEST_TYPES: &str = "application/vnd.oci.image.manifest.v1+json, \
     application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.list.v2+json";

/// Redirects that one request follows.
const MAX_REDIRECTS: usize = 5;
/// Cap on the body of a refusal, in bytes.
const MAX_REFUSAL: u64 = 64 << 10;
/// Characters of a registry's own words that are repeated.
const MAX_WORDS: usize = 200;

/// A client that speaks plain HTTP with this machine only.
pub(super) fn client(host: &str, patience: &Patience) -> Result<reqwest::Client> {
    // Fails when a provider is set already, which is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
    let local = is_local(host);
    let redirects = Policy::custom(move |attempt| {
        let plain = local && attempt.url().host_str().is_some_and(is_local);
        if attempt.previous().len() > MAX_REDIRECTS {
            attempt.error("it redirects too often")
        } else if attempt.url().scheme() == "https" || plain {
            attempt.follow()
        } else {
            attempt.error("it redirects to plain HTTP")
        }
    });
    let mut builder = reqwest::Client::builder()
        .redirect(redirects)
        .connect_timeout(patience.connect)
        .read_timeout(patience.silence);
    if local {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|e| ImageError::Bug {
        what: format!("no HTTP client can be made: {e}"),
    })
}

impl Registry {
    /// The answer to a request for a document or blob, from the byte `from` on: 200 or 206.
    pub(super) async fn get(
        &self,
        kind: &str,
        digest: &Digest,
        from: u64,
    ) -> Result<Response, Trouble> {
        let url = format!(
            "{}/v2/{}/{kind}/{digest}",
            base(&self.host),
            self.repository
        );
        loop {
            let (authorization, turn) = self.auth.current().await;
            let mut request = self.http.get(&url);
            if kind == MANIFESTS {
                request = request.header(ACCEPT, MANIFEST_TYPES);
            }
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            if let Some(authorization) = authorization {
                request = request.header(reqwest::header::AUTHORIZATION, authorization);
            }
            let answer = request.send().await.map_err(broken)?;
            match answer.status() {
                StatusCode::OK | StatusCode::PARTIAL_CONTENT => {
                    self.auth.worked(turn).await;
                    return Ok(answer);
                }
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    let challenges = answer.headers().clone();
                    let refusal = refusal(answer).await;
                    match self.auth.next(&self.http, turn, &challenges).await? {
                        Next::Again => {}
                        Next::Nothing(with) => return Err(self.denied(with, refusal).into()),
                    }
                }
                StatusCode::NOT_FOUND | StatusCode::GONE => {
                    return Err(Trouble::Final(ImageError::NotFound {
                        image: self.image.clone(),
                        what: format!("blob {digest}"),
                    }));
                }
                // The file that we have is longer than what they have: from the start, or not at all.
                // What they have is shorter than what the manifest says.
                StatusCode::RANGE_NOT_SATISFIABLE => return Err(super::mismatch(digest).into()),
                _ => return Err(self.unsettled(answer).await),
            }
        }
    }

    async fn unsettled(&self, answer: Response) -> Trouble {
        let (status, after) = (answer.status(), retry_after(answer.headers()));
        let mut reason = refusal(answer).await;
        if let Some(after) = after {
            reason += &format!(", try again after {} s", after.as_secs());
        }
        if is_passing(status) {
            let source = reason.into();
            return Trouble::Passing { source, after };
        }
        Trouble::Final(self.unavailable(reason))
    }

    fn denied(&self, with: String, reason: String) -> ImageError {
        ImageError::NotAllowed {
            registry: self.host.clone(),
            image: self.image.clone(),
            with,
            source: reason.into(),
        }
    }
}

/// At most `limit` bytes of an answer's body.
pub(super) async fn body(mut answer: Response, limit: u64) -> Result<Vec<u8>, Trouble> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(broken)? {
        let left = usize::try_from(limit).unwrap_or(usize::MAX) - bytes.len();
        bytes.extend_from_slice(&chunk[..chunk.len().min(left)]);
        if bytes.len() as u64 == limit {
            break;
        }
    }
    Ok(bytes)
}

/// A failure of the connection. The address is left out: redirects lead to some that are as good as a password.
pub(super) fn broken(error: reqwest::Error) -> Trouble {
    let redirected = error.is_redirect();
    let source = error.without_url();
    if redirected {
        let what = "the registry".to_owned();
        let source = source.into();
        return Trouble::Final(ImageError::Unavailable { what, source });
    }
    Trouble::passing(source)
}

/// Whether another try may end otherwise.
pub(super) fn is_passing(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
        )
}

/// What a registry asks for, in seconds; a date is not read, the own delay holds then.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds))
}

/// The status, and the registry's words if it has some.
pub(super) async fn refusal(answer: Response) -> String {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Refusal {
        errors: Vec<Cause>,
        /// Of token servers.
        details: String,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Cause {
        code: String,
        message: String,
    }
    let status = answer.status();
    let bytes = body(answer, MAX_REFUSAL).await.unwrap_or_default();
    let said: Refusal = serde_json::from_slice(&bytes).unwrap_or_default();
    let words = match said.errors.first() {
        Some(cause) => format!("{} {}", cause.code, cause.message),
        None => said.details,
    };
    let clean = words.chars().map(|c| if c.is_control() { ' ' } else { c });
    let words: String = clean.take(MAX_WORDS).collect();
    match words.trim() {
        "" => format!("it answered {status}"),
        words => format!("it answered {status}: {words}"),
    }
}

/// Where a registry's API is.
fn base(host: &str) -> String {
    let scheme = if is_local(host) { "http" } else { "https" };
    let host = match host {
        "docker.io" => "registry-1.docker.io",
        host => host,
    };
    format!("{scheme}://{host}")
}

/// Whether `host` (with a port or without) is this machine, where plain HTTP is as good as TLS.
pub(super) fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(six) => six.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost"
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::is_local;

    #[test]
    fn only_this_machine_is_local() {
        for local in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:5000",
            "127.9.9.9",
            "[::1]:5000",
        ] {
            assert!(is_local(local), "{local}");
        }
        for far in [
            "localhost.example.com",
            "10.0.0.1:5000",
            "docker.io",
            "128.0.0.1",
            "[::2]:1",
        ] {
            assert!(!is_local(far), "{far}");
        }
    }
}
