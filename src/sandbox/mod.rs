//! What runs an actor: the trait [`Sandbox`], its words, and its backends. Here too: waiting for readiness,
//! bounded container logs, the groups in which sandboxes have limits ([`cgroup`]), and the reaping of what the runtime leaves behind ([`Orphans`]).
//!
//! Not here: the network of a slot (`network`), images and snapshots (a sandbox gets directories), and the
//! decision when to do what (`node`, which is the only caller: the executor of a slot).

pub mod cgroup;
mod error;
mod etc;
pub mod gvisor;
pub mod logs;
mod orphans;
pub mod pause;
pub mod readyz;
mod spec;
#[cfg(test)]
pub(crate) mod testing;

use crate::api::quantity::Bytes;
use crate::api::resources::SANDBOX_OVERHEAD;
use async_trait::async_trait;
use std::fmt;
use std::path::Path;

pub use error::Error;
pub use etc::FILES as ETC_FILES;
pub use orphans::{Death, Orphans};
pub use spec::{Container, Dns, Spec, Step, Steps};

/// What the runtime says about the sandbox of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// There is none.
    Absent,
    /// Its processes run.
    Running,
    /// It stands still: after [`Sandbox::freeze`], while a checkpoint is under way, or because one failed and could not be
    /// undone.
    Frozen,
    /// It ended by itself, or was killed; what is left of it goes with [`Sandbox::stop`].
    Exited(Exit),
}

/// How a sandbox ended. `Display` says it to a person.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exit {
    /// The container whose end it was; empty: it was that of the sandbox.
    pub container: String,
    /// Its exit code; 128 + signal after a signal.
    pub code: i32,
    /// It was killed because there was no more memory for it; `Some(bound)` where that was a bound of its own.
    pub out_of_memory: Option<Option<u64>>,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.out_of_memory {
            Some(Some(bound)) => {
                let containers = Bytes(bound.saturating_sub(SANDBOX_OVERHEAD));
                return write!(
                    f,
                    "it took more memory than the {containers} of its limits, and was killed"
                );
            }
            Some(None) => {
                return f.write_str("it was killed because its worker has no more memory");
            }
            None => {}
        }
        match &*self.container {
            "" => f.write_str("the sandbox")?,
            name => write!(f, "container {name:?}")?,
        }
        // waitpid(2), as shells tell it.
        match self.code {
            code @ 129..=192 => write!(f, " was ended by signal {}", code - 128),
            code => write!(f, " exited with code {code}"),
        }
    }
}

/// The sandbox of one slot. There is at most one at a time, and callers serialise: no two calls at once,
/// but [`Sandbox::observe`] and [`Sandbox::exited`], which may come at any time.
///
/// A call that is dropped half-way leaves what [`Sandbox::stop`] removes.
#[async_trait]
pub trait Sandbox: Send + Sync {
    /// Creates a sandbox for a restore to come: with the containers, runtime, network, directories and generation of
    /// `spec`. Whose it will be is not known yet. One at a time: an earlier one goes.
    ///
    /// Afterwards it exists and has run nothing; [`Sandbox::observe`] says [`Observed::Absent`] still. A restore with the same
    /// of all these (but the environment and where logs go, for which its output files are moved) takes it; any other start removes it. After an error nothing of the attempt is left.
    async fn prepare(&self, spec: &Spec) -> Result<Steps, Error>;

    /// Starts the containers of `spec`.
    ///
    /// Afterwards every container's process has been started (which says nothing about readiness) and
    /// stdout and stderr go to `log_dir`. After an error nothing of the attempt is left.
    async fn run(&self, spec: &Spec) -> Result<Steps, Error>;

    /// Saves the running sandbox into `image_dir`, which must not exist, and ends it.
    ///
    /// Afterwards `image_dir` holds the complete image (not yet synced to disk) and the sandbox is gone as
    /// after [`Sandbox::stop`]; should it resist, [`Sandbox::observe`] says so, and the image still counts. After an error there is no `image_dir`, and the sandbox runs on as if nothing had
    /// been asked, but for [`Error::NotRunning`] (there was none) and [`Error::Frozen`] (it is to be stopped).
    async fn checkpoint(&self, image_dir: &Path) -> Result<Steps, Error>;

    /// Reproduces the sandbox that [`Sandbox::checkpoint`] saved into `image_dir`, with the identity, the directories and
    /// the network of `spec`. The containers of `spec` must be those of the checkpoint: names, arguments, user, working directory.
    ///
    /// Afterwards its processes go on where they were, with memory, files and listeners; the environment is
    /// the saved one. `image_dir` may be removed. After an error nothing of the attempt is left.
    async fn restore(&self, spec: &Spec, image_dir: &Path) -> Result<Steps, Error>;

    /// Lets the running sandbox stand still.
    ///
    /// Afterwards none of its processes runs, and [`Sandbox::observe`] says [`Observed::Frozen`]; memory, files and
    /// connections are kept. Freezing a frozen one is success. After an error it may be either.
    async fn freeze(&self) -> Result<(), Error>;

    /// Lets the frozen sandbox go on where it was. Thawing a running one is success; after an error it may be either.
    async fn thaw(&self) -> Result<(), Error>;

    /// Ends the sandbox, whatever its state, and one that was created ahead, and removes what the runtime keeps of them. Nothing
    /// to stop is success.
    ///
    /// Afterwards none of their processes lives and [`Sandbox::observe`] says [`Observed::Absent`].
    async fn stop(&self) -> Result<Steps, Error>;

    /// Asks the runtime; an error means that it could not be asked, and nothing else.
    async fn observe(&self) -> Result<Observed, Error>;

    /// Returns how the present sandbox has ended, when it has by itself; never, while there is none.
    async fn exited(&self) -> Exit;

    /// What is left of sandboxes although there is none, but for one that was created ahead: what [`Sandbox::stop`] should have
    /// removed. Empty is clean.
    fn residue(&self) -> Result<Vec<String>, Error>;
}
