//! How requests were answered.

use crate::telemetry::metrics::{self, Durations};
use http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use std::sync::LazyLock;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    code: u16,
}

static ANSWERS: LazyLock<Durations<Answer>> = LazyLock::new(|| {
    metrics::durations(
        "router_response_seconds",
        "How long requests for actors waited for the head of their answer, wakes included",
    )
});

/// A request was answered after so long.
pub(super) fn answered(code: StatusCode, took: Duration) {
    let labels = Answer {
        code: code.as_u16(),
    };
    ANSWERS.get_or_create(&labels).observe(took.as_secs_f64());
}
