//! Reasons: why something is as it is, in one CamelCase word that conditions and events carry.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Why an actor is not where it is wanted, or was moved against its will. `Display` is the word for conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reason {
    /// No worker of a matching pool is free.
    NoFreeWorkers,
    /// The template does not exist.
    TemplateNotFound,
    /// The template has no golden snapshot yet.
    TemplateNotReady,
    /// No pool matches the template's selector.
    PoolNotFound,
    /// The sandbox could not be started from the image.
    BootFailed,
    /// The snapshot could not be restored.
    RestoreFailed,
    /// The sandbox could not be saved; it went on or was rolled back.
    CheckpointFailed,
    /// The snapshot is incomplete, damaged or of another format.
    SnapshotUnreadable,
    /// The image could not be fetched or unpacked.
    ImageUnavailable,
    /// The runtime is missing, has another checksum, or is not allowed.
    RuntimeUnavailable,
    /// The sandbox ended by itself.
    SandboxExited,
    /// The sandbox is gone: its worker was killed or restarted.
    SandboxLost,
    /// The node did not renew its lease in time.
    NodeLost,
    /// The node could not be asked.
    NodeUnreachable,
    /// The operation passed its deadline.
    DeadlineExceeded,
    /// The actor's policy says that it does not wake.
    OperatingModeSuspended,
}

impl Reason {
    /// Whether the same call can succeed later without anybody changing anything.
    pub fn is_transient(self) -> bool {
        match self {
            Reason::NoFreeWorkers
            | Reason::TemplateNotReady
            | Reason::ImageUnavailable
            | Reason::SandboxLost
            | Reason::NodeLost
            | Reason::NodeUnreachable
            | Reason::DeadlineExceeded
            | Reason::CheckpointFailed => true,
            Reason::TemplateNotFound
            | Reason::PoolNotFound
            | Reason::BootFailed
            | Reason::RestoreFailed
            | Reason::SnapshotUnreadable
            | Reason::RuntimeUnavailable
            | Reason::SandboxExited
            | Reason::OperatingModeSuspended => false,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
