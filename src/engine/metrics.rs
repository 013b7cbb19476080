//! How actors' transitions went.

use crate::api::Reason;
use crate::lifecycle::actor::Outcome;
use crate::proto::atenode::StepTiming;
use crate::telemetry::metrics::{self, Durations};
use prometheus_client::encoding::EncodeLabelSet;
use std::sync::LazyLock;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Transition {
    /// Where it ended.
    to: &'static str,
    /// Why it did not get where it was to go; empty: it did.
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfWake {
    step: String,
}

static TRANSITIONS: LazyLock<Durations<Transition>> = LazyLock::new(|| {
    metrics::durations(
        "actor_transition_seconds",
        "How long actors took from one phase to the next, by where they ended and why not where they were to go",
    )
});

static STEPS: LazyLock<Durations<OfWake>> = LazyLock::new(|| {
    metrics::durations(
        "actor_wake_step_seconds",
        "How long the steps of wakes took, here and on nodes",
    )
});

/// A transition ended.
pub(super) fn transition(outcome: &Outcome, failure: Option<Reason>, took: Duration) {
    let labels = Transition {
        to: outcome.into(),
        reason: failure.map(|reason| reason.to_string()).unwrap_or_default(),
    };
    TRANSITIONS
        .get_or_create(&labels)
        .observe(took.as_secs_f64());
}

/// A wake ended; its steps.
pub(super) fn wake(steps: &[StepTiming]) {
    for step in steps {
        let labels = OfWake {
            step: step.name.clone(),
        };
        let took = Duration::from_micros(step.micros);
        STEPS.get_or_create(&labels).observe(took.as_secs_f64());
    }
}
