//! What an operation can end in, for the doors to map.

use crate::api::record::Phase;
use crate::api::{ActorKey, Reason};
use crate::store::StoreError;

/// Why an actor did not get where it was wanted.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// There is no such actor.
    #[error("Actor {0} not found")]
    NotFound(ActorKey),
    /// The actor moves in the other direction, or a write raced.
    #[error("another operation is in progress for this actor")]
    InProgress,
    /// The actor's phase does not allow it.
    #[error("Actor {key} is {phase}: {why}")]
    WrongPhase {
        /// The actor.
        key: ActorKey,
        /// Its phase.
        phase: Phase,
        /// What would be needed.
        why: &'static str,
    },
    /// It was tried, and failed; the record says so too.
    #[error("{message}")]
    Failed {
        /// In one word.
        reason: Reason,
        /// For a person.
        message: String,
    },
    /// The caller's deadline passed; the operation goes on.
    #[error("the operation is still in progress; it goes on")]
    DeadlineExceeded,
    /// The store did not do its part.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for DriveError {
    fn from(e: StoreError) -> Self {
        match e {
            StoreError::Fenced(_) | StoreError::Conflict(_) => DriveError::InProgress,
            e => DriveError::Store(e),
        }
    }
}
