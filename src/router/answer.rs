//! What the router itself says to a client: one line of plain text.

use super::{HostError, ResolveError};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;

/// An answer of the router's own. Boxed, as it mostly is the error of a `Result`.
pub(super) type Answer = Box<Response<Full<Bytes>>>;

/// Seconds after which a client may try again when the router has too much to do.
const RETRY_AFTER_SECONDS: u64 = 1;

/// Longest text of an answer, in bytes.
const MAX_TEXT: usize = 1024;

pub(super) fn text(status: StatusCode, line: &str) -> Answer {
    let line = &line[..line.floor_char_boundary(MAX_TEXT)];
    let body = format!("{}\n", line.replace(['\r', '\n'], " "));
    let mut answer = Box::new(Response::new(Full::new(Bytes::from(body))));
    *answer.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, plain);
    answer
}

pub(super) fn overloaded() -> Answer {
    let mut answer = text(
        StatusCode::SERVICE_UNAVAILABLE,
        "the router has too many requests in flight; try again",
    );
    let after = HeaderValue::from(RETRY_AFTER_SECONDS);
    answer.headers_mut().insert(RETRY_AFTER, after);
    answer
}

impl From<HostError> for Answer {
    fn from(error: HostError) -> Self {
        text(StatusCode::NOT_FOUND, &error.to_string())
    }
}

impl From<ResolveError> for Answer {
    fn from(error: ResolveError) -> Self {
        let status = match error {
            ResolveError::NotFound(_) => StatusCode::NOT_FOUND,
            ResolveError::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            ResolveError::DeadlineExceeded(_) => StatusCode::GATEWAY_TIMEOUT,
            ResolveError::PermissionDenied(_) => StatusCode::FORBIDDEN,
            ResolveError::Unauthenticated(_) => StatusCode::UNAUTHORIZED,
            ResolveError::ResourceExhausted(_) => StatusCode::TOO_MANY_REQUESTS,
            ResolveError::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        text(status, &error.to_string())
    }
}
