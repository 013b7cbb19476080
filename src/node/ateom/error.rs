//! What can go wrong in the executor and with it.

use crate::sandbox::Exit;
use crate::telemetry::chain;
use crate::{network, sandbox};
use std::path::PathBuf;
use tonic::{Code, Status};

/// Why a call of the executor, or the handling of an executor, failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller's input. Repeating does not help.
    #[error("{0}")]
    Invalid(String),
    /// Not allowed: the order is older than what the slot has seen.
    #[error("the order's epoch {epoch} is refused: {reason}")]
    Fenced {
        /// Of the order.
        epoch: u64,
        /// What the slot knows better.
        reason: &'static str,
    },
    /// Not allowed: the slot runs another actor, or another epoch.
    #[error("the slot is taken by {actor} with epoch {epoch}; stop it first")]
    Taken {
        /// Who runs.
        actor: String,
        /// With which epoch.
        epoch: u64,
    },
    /// Not allowed: the slot could not be proved clean. End its executor.
    #[error("the slot is not clean: {0}")]
    Dirty(String),
    /// Not allowed: the control plane may have given the actor to another node.
    #[error("the node's lease has lapsed; nothing runs until it is renewed")]
    Lapsed,
    /// Gone: the sandbox ended by itself.
    #[error("{0}; kubectl ate logs says more")]
    Ended(Exit),
    /// A stop came before the sandbox was ready.
    #[error("stopped before it was ready")]
    Stopped,
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] sandbox::Error),
    /// The network.
    #[error(transparent)]
    Network(#[from] network::Error),
    /// The executor must be pid 1 of its own namespaces.
    #[error(
        "ateom must be the first process of its own pid namespace; it is started by atelet or as a container"
    )]
    NotFirst,
    /// The executor does not answer. May be worth another try.
    #[error("cannot connect to {}", path.display())]
    Connect {
        /// Its socket.
        path: PathBuf,
        /// Why.
        source: tonic::transport::Error,
    },
    /// A system call.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl Error {
    /// For `map_err`: says what was tried.
    pub(super) fn io<E: Into<std::io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Error {
        let what = what.into();
        move |source| Error::Io {
            what,
            source: source.into(),
        }
    }

    fn code(&self) -> Code {
        use sandbox::Error as S;
        match self {
            Error::Invalid(_) | Error::Sandbox(S::Invalid(_)) => Code::InvalidArgument,
            Error::Network(network::Error::Invalid(_)) => Code::InvalidArgument,
            Error::Fenced { .. }
            | Error::Taken { .. }
            | Error::Dirty(_)
            | Error::Lapsed
            | Error::NotFirst => Code::FailedPrecondition,
            Error::Sandbox(
                S::Exists | S::NotRunning { .. } | S::Frozen { .. } | S::NoRuntime { .. },
            ) => Code::FailedPrecondition,
            Error::Ended(exit) if exit.out_of_memory.is_some() => Code::ResourceExhausted,
            Error::Ended(_) => Code::Aborted,
            Error::Sandbox(S::NoLimits(_)) => Code::Unimplemented,
            Error::Stopped => Code::Cancelled,
            Error::Sandbox(S::Timeout { .. } | S::NotReady { .. }) => Code::DeadlineExceeded,
            Error::Sandbox(S::Incomplete { .. }) => Code::DataLoss,
            Error::Connect { .. } => Code::Unavailable,
            Error::Sandbox(S::Runtime { .. } | S::Io { .. })
            | Error::Network(_)
            | Error::Io { .. } => Code::Internal,
        }
    }
}

/// The whole chain in the message: this is the edge. Codes: InvalidArgument = input, FailedPrecondition = not allowed or not there (see
/// what the slot runs), Aborted = the sandbox ended by itself, Cancelled = stopped meanwhile, DeadlineExceeded = too
/// slow, DataLoss = the image is not complete, ResourceExhausted = it took more memory than it may, Unimplemented = its limits cannot
/// be kept here, Internal = worth a try elsewhere.
impl From<Error> for Status {
    fn from(error: Error) -> Status {
        Status::new(error.code(), chain(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_codes_of_their_own() {
        let ended = |out_of_memory| {
            Error::Ended(Exit {
                container: "app".into(),
                code: 137,
                out_of_memory,
            })
        };
        for (error, code, said) in [
            (
                ended(None),
                Code::Aborted,
                "container \"app\" was ended by signal 9",
            ),
            (
                ended(Some(None)),
                Code::ResourceExhausted,
                "its worker has no more memory",
            ),
            (
                ended(Some(Some((128 + 64) << 20))),
                Code::ResourceExhausted,
                "more memory than the 128Mi of its limits",
            ),
            (
                sandbox::Error::NoLimits("why".into()).into(),
                Code::Unimplemented,
                "its limits cannot be kept: why",
            ),
        ] {
            let status = Status::from(error);
            assert_eq!(status.code(), code, "{said}");
            assert!(status.message().contains(said), "{}", status.message());
        }
    }
}
