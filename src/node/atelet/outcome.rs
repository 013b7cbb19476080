//! How an order ended, as its callers are told.

use crate::api::Reason;
use crate::image::ImageError;
use crate::lifecycle::slot::Refusal;
use crate::proto::atenode::StepTiming;
use crate::rpc::nodes::{failed, refused};
use crate::snapshot::SnapshotError;
use crate::telemetry::chain;
use tonic::Status;

/// What an order led to.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    /// The assignment runs and takes requests at `address`.
    Started {
        address: String,
        steps: Vec<StepTiming>,
    },
    /// The snapshot is where it should be, and the slot is free.
    Saved {
        bytes: u64,
        /// Build of the runtime that made it.
        runtime: String,
        steps: Vec<StepTiming>,
    },
    /// Nothing of the actor runs on the slot.
    Ended { steps: Vec<StepTiming> },
}

/// Why an order led to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// It does not count, or cannot be: nothing was done.
    Refused(String),
    /// It was tried.
    Failed(Reason, String),
    /// There is no such slot, actor or snapshot.
    NotFound(String),
    /// The order cannot be read: a bug of the caller.
    Invalid(String),
}

pub(super) type Outcome = Result<Answer, Failure>;

impl Failure {
    /// A failure for `reason`, with everything that `error` knows.
    pub(super) fn because(reason: Reason, error: &dyn std::error::Error) -> Failure {
        Failure::Failed(reason, chain(error))
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Status {
        match failure {
            Failure::Refused(message) => refused(message),
            Failure::Failed(reason, message) => failed(reason, message),
            Failure::NotFound(message) => Status::not_found(message),
            Failure::Invalid(message) => Status::invalid_argument(message),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        Failure::Refused(refusal.to_string())
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Failure {
        Failure::because(Reason::ImageUnavailable, &error)
    }
}

impl From<SnapshotError> for Failure {
    /// For reading one. What may pass by itself is told apart from what will not.
    fn from(error: SnapshotError) -> Failure {
        use SnapshotError as E;
        let reason = match &error {
            E::Unavailable { .. } | E::Io { .. } | E::AlreadyExists { .. } | E::Bug { .. } => {
                Reason::RestoreFailed
            }
            E::BadLocation { .. }
            | E::BadEndpoint { .. }
            | E::BadCa { .. }
            | E::BadId { .. }
            | E::BadImage { .. }
            | E::TooLarge { .. }
            | E::NotFound { .. }
            | E::NoObject { .. }
            | E::Damaged { .. }
            | E::Unsupported { .. }
            | E::NotAllowed { .. } => Reason::SnapshotUnreadable,
        };
        Failure::because(reason, &error)
    }
}
