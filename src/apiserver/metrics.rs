//! How requests were answered.

use crate::telemetry::metrics::{self, Durations};
use http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use std::sync::LazyLock;
use std::time::Duration;

/// What verbs are told apart: a client may make up methods.
const VERBS: [&str; 8] = [
    "get",
    "list",
    "watch",
    "create",
    "update",
    "patch",
    "delete",
    "deletecollection",
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    verb: &'static str,
    code: u16,
}

static ANSWERS: LazyLock<Durations<Answer>> = LazyLock::new(|| {
    metrics::durations(
        "apiserver_response_seconds",
        "How long requests about objects waited for the head of their answer",
    )
});

/// A request was answered after so long.
pub(super) fn answered(verb: &str, code: StatusCode, took: Duration) {
    let known = VERBS.into_iter().find(|known| *known == verb);
    let labels = Answer {
        verb: known.unwrap_or("other"),
        code: code.as_u16(),
    };
    ANSWERS.get_or_create(&labels).observe(took.as_secs_f64());
}
