//! How a node's failure crosses the wire: a gRPC status whose metadata `ate-reason` carries the [`Reason`].

use crate::api::reason::Reason;
use crate::rpc::Error;
use std::error::Error as _;
use tonic::{Code, Status, TimeoutExpired};

/// Metadata key of the reason, by its name (`RestoreFailed`).
pub const REASON_METADATA: &str = "ate-reason";

/// Longest message that crosses the wire, in bytes: it travels in a header, and runtimes print whole stacks.
const MAX_MESSAGE: usize = 2048;

/// Why a call to a node did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// No connection, or it broke before the answer. Outcome unknown.
    #[error("the node cannot be reached")]
    Unreachable(#[source] Box<Status>),
    /// No answer in time. Outcome unknown.
    #[error("the node did not answer in time")]
    TimedOut,
    /// The order was fenced off: a newer epoch or incarnation is known there, or its deadline passed. Not done.
    #[error("the node refused the order: {message}")]
    Refused {
        /// In the node's words.
        message: String,
    },
    /// The node tried and failed. Outcome known: it is not so, for this reason.
    #[error("{reason}: {message}")]
    Failed {
        /// For the actor's condition.
        reason: Reason,
        /// In the node's words.
        message: String,
    },
    /// The node knows no such slot, actor or snapshot. Not done.
    #[error("the node does not know it: {message}")]
    NotFound {
        /// In the node's words.
        message: String,
    },
    /// An answer that a node agent of ours does not give: a bug, another version, or a wrong certificate.
    #[error("unexpected answer from the node ({:?}): {}", .0.code(), .0.message())]
    Unexpected(Box<Status>),
    /// The address or our certificate is unusable; nothing was sent.
    #[error("the node cannot be called")]
    Setup(#[from] Error),
}

impl NodeError {
    /// Whether the node may have done, or may yet do, what was asked.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            NodeError::Unreachable(_) | NodeError::TimedOut => true,
            NodeError::Refused { .. }
            | NodeError::Failed { .. }
            | NodeError::NotFound { .. }
            | NodeError::Setup(_) => false,
            // What is refused before the handler runs; any other code can come from the middle of it.
            NodeError::Unexpected(status) => !matches!(
                status.code(),
                Code::InvalidArgument
                    | Code::Unimplemented
                    | Code::PermissionDenied
                    | Code::Unauthenticated
            ),
        }
    }
}

impl From<Status> for NodeError {
    fn from(status: Status) -> Self {
        let message = || status.message().to_owned();
        if let Some(reason) = reason_of(&status) {
            return NodeError::Failed {
                reason,
                message: message(),
            };
        }
        if timed_out(&status) {
            return NodeError::TimedOut;
        }
        // Only what failed on the way has a source: a status that arrived is just its code and text.
        if status.source().is_some() {
            return NodeError::Unreachable(Box::new(status));
        }
        match status.code() {
            Code::FailedPrecondition | Code::Aborted => NodeError::Refused { message: message() },
            Code::NotFound => NodeError::NotFound { message: message() },
            Code::DeadlineExceeded | Code::Cancelled => NodeError::TimedOut,
            Code::Unavailable => NodeError::Unreachable(Box::new(status)),
            _ => NodeError::Unexpected(Box::new(status)),
        }
    }
}

fn reason_of(status: &Status) -> Option<Reason> {
    let word = status.metadata().get(REASON_METADATA)?;
    word.to_str().ok()?.parse().ok()
}

fn timed_out(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<TimeoutExpired>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// What a node agent answers when it tried and failed. The caller gets [`NodeError::Failed`] with this reason.
pub fn failed(reason: Reason, message: impl AsRef<str>) -> Status {
    let mut status = Status::new(code(reason), cut(message.as_ref()));
    // A reason's name is ASCII, so it always is a metadata value.
    if let Ok(word) = reason.to_string().parse() {
        status.metadata_mut().insert(REASON_METADATA, word);
    }
    status
}

/// What a node agent answers to an order that is fenced off. The caller gets [`NodeError::Refused`].
pub fn refused(message: impl AsRef<str>) -> Status {
    Status::failed_precondition(cut(message.as_ref()))
}

/// For people with grpcurl; our own client goes by the reason.
fn code(reason: Reason) -> Code {
    match reason {
        Reason::NoFreeWorkers
        | Reason::TemplateNotReady
        | Reason::TemplateNotFound
        | Reason::PoolNotFound
        | Reason::RuntimeUnavailable
        | Reason::RuntimeMismatch
        | Reason::WorkerTooSmall
        | Reason::LimitsUnavailable
        | Reason::SnapshotUnreadable
        | Reason::OperatingModeSuspended => Code::FailedPrecondition,
        Reason::NamespaceNotAllowed => Code::PermissionDenied,
        Reason::ImageUnavailable
        | Reason::SecretUnavailable
        | Reason::NodeLost
        | Reason::NodeUnreachable => Code::Unavailable,
        Reason::DeadlineExceeded => Code::DeadlineExceeded,
        Reason::BootFailed
        | Reason::RestoreFailed
        | Reason::CheckpointFailed
        | Reason::SandboxExited
        | Reason::OOMKilled
        | Reason::SandboxLost => Code::Internal,
    }
}

fn cut(message: &str) -> String {
    let end = message.floor_char_boundary(MAX_MESSAGE);
    message[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_become_errors() {
        for (status, want, unknown) in [
            (refused("epoch 3 is older than 4"), "Refused", false),
            (Status::aborted("busy"), "Refused", false),
            (Status::not_found("slot"), "NotFound", false),
            (Status::deadline_exceeded("late"), "TimedOut", true),
            (Status::cancelled("Timeout expired"), "TimedOut", true),
            (Status::unavailable("draining"), "Unreachable", true),
            (Status::internal("boom"), "Unexpected", true),
            (Status::unimplemented("?"), "Unexpected", false),
            (failed(Reason::RestoreFailed, "x"), "Failed", false),
            (failed(Reason::NodeUnreachable, "x"), "Failed", false),
            (failed(Reason::DeadlineExceeded, "x"), "Failed", false),
        ] {
            let shown = format!("{status:?}");
            let error = NodeError::from(status);
            assert!(format!("{error:?}").starts_with(want), "{shown}: {error:?}");
            assert_eq!(error.outcome_unknown(), unknown, "{shown}");
        }
    }

    #[test]
    fn a_reason_of_a_newer_node_is_no_known_failure() {
        let mut status = Status::internal("boom");
        let word = "SomethingNew".parse().unwrap();
        status.metadata_mut().insert(REASON_METADATA, word);
        assert!(matches!(NodeError::from(status), NodeError::Unexpected(_)));
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let status = failed(Reason::BootFailed, "ä".repeat(MAX_MESSAGE));
        assert_eq!(status.message().len(), MAX_MESSAGE);
        let status = refused(format!("x{}", "ä".repeat(MAX_MESSAGE)));
        assert_eq!(status.message().len(), MAX_MESSAGE - 1);
    }
}
