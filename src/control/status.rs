//! From what an operation ended in to the codes and words that existing clients match.

use crate::api::Reason;
use crate::engine::DriveError;
use crate::store::StoreError;
use tonic::{Code, Status};

/// The gRPC status of a failed operation on the actor that the client calls `id`.
pub fn status(id: &str, error: &DriveError) -> Status {
    match error {
        DriveError::NotFound(_) => Status::not_found(format!("Actor {id} not found")),
        DriveError::InProgress => {
            Status::aborted("another operation is in progress for this actor")
        }
        DriveError::WrongPhase { .. } => Status::failed_precondition(error.to_string()),
        DriveError::Failed { reason, message } => Status::new(code_of(*reason), message.clone()),
        DriveError::DeadlineExceeded => Status::deadline_exceeded(error.to_string()),
        DriveError::Store(e) => of_store(id, e),
    }
}

fn code_of(reason: Reason) -> Code {
    match reason {
        Reason::NoFreeWorkers
        | Reason::TemplateNotFound
        | Reason::TemplateNotReady
        | Reason::PoolNotFound
        | Reason::BootFailed
        | Reason::RestoreFailed
        | Reason::SnapshotUnreadable
        | Reason::RuntimeUnavailable
        | Reason::RuntimeMismatch
        | Reason::WorkerTooSmall
        | Reason::LimitsUnavailable
        | Reason::OOMKilled
        | Reason::OperatingModeSuspended => Code::FailedPrecondition,
        Reason::NamespaceNotAllowed => Code::PermissionDenied,
        Reason::CheckpointFailed
        | Reason::ImageUnavailable
        | Reason::SecretUnavailable
        | Reason::SandboxExited
        | Reason::SandboxLost
        | Reason::NodeLost
        | Reason::NodeUnreachable
        | Reason::DeadlineExceeded => Code::Unavailable,
    }
}

/// The gRPC status of a failed store call.
pub(super) fn of_store(id: &str, error: &StoreError) -> Status {
    match error {
        StoreError::Unavailable(why) => Status::unavailable(format!("{error}: {why}; try again")),
        StoreError::Exists(_) => Status::already_exists(format!("Actor {id} already exists")),
        StoreError::NotFound(_) => Status::not_found(format!("Actor {id} not found")),
        StoreError::Conflict(_) | StoreError::Fenced(_) => {
            Status::aborted("another operation is in progress for this actor")
        }
        StoreError::CapReached { .. } => Status::resource_exhausted(error.to_string()),
        StoreError::Expired(_) => Status::out_of_range(error.to_string()),
        StoreError::Corrupt { .. } => Status::data_loss(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ActorKey;

    #[test]
    fn the_words_that_clients_match() {
        let of = |e: &DriveError| (status("a", e).code(), status("a", e).message().to_owned());
        let full = DriveError::Failed {
            reason: Reason::NoFreeWorkers,
            message: "no free workers available".into(),
        };
        assert_eq!(
            of(&full),
            (Code::FailedPrecondition, "no free workers available".into())
        );
        let foreign = DriveError::Failed {
            reason: Reason::NamespaceNotAllowed,
            message: "why".into(),
        };
        assert_eq!(of(&foreign), (Code::PermissionDenied, "why".into()));
        let gone = DriveError::NotFound(ActorKey::new("ns", "a"));
        assert_eq!(of(&gone), (Code::NotFound, "Actor a not found".into()));
        let busy = "another operation is in progress for this actor";
        assert_eq!(of(&DriveError::InProgress), (Code::Aborted, busy.into()));
    }
}
