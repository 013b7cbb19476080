//! Reasons: why something is as it is, in one CamelCase word that conditions and events carry.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

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
    /// A Secret that the template names is missing, has no such key, or may not be read.
    SecretUnavailable,
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
    /// The template is another namespace's and does not let actors of this one in.
    NamespaceNotAllowed,
    /// The snapshot needs a build of the runtime that no worker of a matching pool has.
    RuntimeMismatch,
    /// The sandbox took more memory than it may, and was killed.
    OOMKilled,
    /// No worker of a matching pool is large enough for the template.
    WorkerTooSmall,
    /// The worker cannot keep a sandbox within limits: it has no control groups of its own.
    LimitsUnavailable,
}

impl Reason {
    /// Whether the same call can succeed later without anybody changing anything.
    pub fn is_transient(self) -> bool {
        match self {
            Reason::NoFreeWorkers
            | Reason::TemplateNotReady
            | Reason::ImageUnavailable
            | Reason::SecretUnavailable
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
            | Reason::OperatingModeSuspended
            | Reason::NamespaceNotAllowed
            | Reason::RuntimeMismatch
            | Reason::OOMKilled
            | Reason::WorkerTooSmall
            | Reason::LimitsUnavailable => false,
        }
    }

    /// Of a sandbox that ended by itself.
    pub fn of_end(out_of_memory: bool) -> Reason {
        match out_of_memory {
            true => Reason::OOMKilled,
            false => Reason::SandboxExited,
        }
    }

    /// Whether it is about the workers that there are: nothing was tried, and somebody has to bring others.
    pub fn is_of_workers(self) -> bool {
        matches!(self, Reason::RuntimeMismatch | Reason::WorkerTooSmall)
    }

    /// Whether it is about the actor's template alone, as it is now: nothing was tried, and the next look may find it
    /// otherwise.
    pub fn is_of_template(self) -> bool {
        match self {
            Reason::TemplateNotFound | Reason::TemplateNotReady | Reason::NamespaceNotAllowed => {
                true
            }
            Reason::NoFreeWorkers
            | Reason::PoolNotFound
            | Reason::BootFailed
            | Reason::RestoreFailed
            | Reason::CheckpointFailed
            | Reason::SnapshotUnreadable
            | Reason::ImageUnavailable
            | Reason::SecretUnavailable
            | Reason::RuntimeUnavailable
            | Reason::SandboxExited
            | Reason::SandboxLost
            | Reason::NodeLost
            | Reason::NodeUnreachable
            | Reason::DeadlineExceeded
            | Reason::OperatingModeSuspended
            | Reason::RuntimeMismatch
            | Reason::OOMKilled
            | Reason::WorkerTooSmall
            | Reason::LimitsUnavailable => false,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A word that is none of our reasons.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a reason")]
pub struct UnknownReason(String);

/// Longest foreign word that an error repeats.
const MAX_ECHO: usize = 64;

impl FromStr for Reason {
    type Err = UnknownReason;

    /// The inverse of `Display`.
    fn from_str(word: &str) -> Result<Self, UnknownReason> {
        use serde::de::IntoDeserializer;
        use serde::de::value::{Error, StrDeserializer};
        let word_de: StrDeserializer<'_, Error> = word.into_deserializer();
        Reason::deserialize(word_de)
            .map_err(|_| UnknownReason(word.chars().take(MAX_ECHO).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The variant after `reason`; a new one breaks the build here, so that the test below cannot miss it.
    fn next(reason: Reason) -> Option<Reason> {
        use Reason::*;
        Some(match reason {
            NoFreeWorkers => TemplateNotFound,
            TemplateNotFound => TemplateNotReady,
            TemplateNotReady => PoolNotFound,
            PoolNotFound => BootFailed,
            BootFailed => RestoreFailed,
            RestoreFailed => CheckpointFailed,
            CheckpointFailed => SnapshotUnreadable,
            SnapshotUnreadable => ImageUnavailable,
            ImageUnavailable => SecretUnavailable,
            SecretUnavailable => RuntimeUnavailable,
            RuntimeUnavailable => SandboxExited,
            SandboxExited => SandboxLost,
            SandboxLost => NodeLost,
            NodeLost => NodeUnreachable,
            NodeUnreachable => DeadlineExceeded,
            DeadlineExceeded => OperatingModeSuspended,
            OperatingModeSuspended => NamespaceNotAllowed,
            NamespaceNotAllowed => RuntimeMismatch,
            RuntimeMismatch => OOMKilled,
            OOMKilled => WorkerTooSmall,
            WorkerTooSmall => LimitsUnavailable,
            LimitsUnavailable => return None,
        })
    }

    #[test]
    fn every_reason_reads_back() {
        let all = std::iter::successors(Some(Reason::NoFreeWorkers), |r| next(*r));
        let mut seen = 0;
        for reason in all {
            assert_eq!(reason.to_string().parse(), Ok(reason));
            seen += 1;
        }
        assert_eq!(seen, Reason::LimitsUnavailable as usize + 1);
    }

    #[test]
    fn other_words_are_refused() {
        for word in ["", "restoreFailed", "RestoreFailed ", "Nonsense"] {
            assert!(word.parse::<Reason>().is_err(), "{word:?}");
        }
    }
}
