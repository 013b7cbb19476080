//! What the API asks of whoever moves actors. The engine does it; cli puts the two together.

use crate::api::names::ActorKey;
use crate::api::record::ActorRecord;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use std::time::Duration;

/// Why an actor could not be moved.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// It does not exist.
    #[error("{0}")]
    NotFound(String),
    /// Another operation is under way.
    #[error("{0}")]
    Conflict(String),
    /// It cannot be done as things are; the message says what to change.
    #[error("{0}")]
    Precondition(String),
    /// Somebody has to allow it first; the message says who.
    #[error("{0}")]
    Forbidden(String),
    /// Not now: try again.
    #[error("{0}")]
    Unavailable(String),
    /// It went on longer than the caller would wait; it goes on.
    #[error("{0}")]
    Timeout(String),
    /// A bug.
    #[error("{0}")]
    Internal(String),
}

/// Which lines of a container's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// The container; default: the first.
    pub container: Option<String>,
    /// Whether to go on with what is written from now on.
    pub follow: bool,
    /// Only so many lines from the end.
    pub tail: Option<u64>,
}

/// Moves actors.
#[async_trait]
pub trait ActorDriver: Send + Sync + 'static {
    /// Wants the actor awake. Without `wait` the wish is stored, its fulfilment goes on in the background, and the record is as
    /// it is then; with it the record is of when it is awake, or the call ends with `Timeout` (and the wish stays). `boot`:
    /// from the image, not from a snapshot.
    async fn resume(
        &self,
        key: &ActorKey,
        boot: bool,
        wait: Option<Duration>,
    ) -> Result<ActorRecord, DriveError>;
    /// Wants it asleep and durable; otherwise as `resume`.
    async fn suspend(
        &self,
        key: &ActorKey,
        wait: Option<Duration>,
    ) -> Result<ActorRecord, DriveError>;
    /// Wants it asleep on its node; otherwise as `resume`.
    async fn pause(
        &self,
        key: &ActorKey,
        wait: Option<Duration>,
    ) -> Result<ActorRecord, DriveError>;
    /// `spec.deleted` is stored: stop the sandbox, and remove the record once `meta.finalizers` is empty. Called again when the
    /// last finalizer has gone. Afterwards the actor is gone or on its way: a dropped call changes nothing about that.
    async fn delete(&self, key: &ActorKey) -> Result<(), DriveError>;
    /// The log of a container of the actor.
    async fn logs(
        &self,
        key: &ActorKey,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<Bytes, DriveError>>, DriveError>;
}
