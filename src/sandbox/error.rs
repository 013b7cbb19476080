//! What can go wrong with a sandbox.

use std::path::PathBuf;
use std::time::Duration;

/// Why a sandbox call failed. What is true of the sandbox afterwards stands with each method of the trait.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller's input: the specification cannot be run as it is. Repeating does not help.
    #[error("the sandbox specification is not valid: {0}")]
    Invalid(String),
    /// There is a sandbox already: stop it first.
    #[error("a sandbox exists already; stop it first")]
    Exists,
    /// Gone: there is no running sandbox to act on.
    #[error("no sandbox runs (its state is {state})")]
    NotRunning {
        /// What it is instead.
        state: String,
    },
    /// A checkpoint failed and the sandbox could not be resumed: stop it.
    #[error("the checkpoint failed and the sandbox could not be resumed: {message}")]
    Frozen {
        /// What the resume said.
        message: String,
    },
    /// The runtime refused or failed. May be worth another try, on another slot.
    #[error("runsc {call} failed: {message}")]
    Runtime {
        /// The runtime's command.
        call: &'static str,
        /// The useful line of what it said.
        message: String,
    },
    /// The runtime did not answer in time and was killed. May be worth another try, on another slot.
    #[error("runsc {call} did not end within {} s and was killed", after.as_secs())]
    Timeout {
        /// The runtime's command.
        call: &'static str,
        /// The bound.
        after: Duration,
    },
    /// The runtime reported success but its image is not complete.
    #[error("the checkpoint is not complete: {file} is missing or empty")]
    Incomplete {
        /// Which file.
        file: &'static str,
    },
    /// The runtime's executable cannot be started.
    #[error("cannot start {}; is runsc installed and executable?", path.display())]
    NoRuntime {
        /// The executable.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The sandbox has limits that cannot be kept on this slot.
    #[error("its limits cannot be kept: {0}")]
    NoLimits(String),
    /// The container is not ready in time.
    #[error("not ready within {} s: {last}", after.as_secs())]
    NotReady {
        /// The bound.
        after: Duration,
        /// What the last attempt said.
        last: String,
    },
    /// A file or directory of this node. May be worth another try when there is space again.
    #[error("{what}")]
    Io {
        /// What was tried, with the path.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl Error {
    /// For `map_err`: says what was tried.
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Error {
        let what = what.into();
        move |source| Error::Io { what, source }
    }
}
