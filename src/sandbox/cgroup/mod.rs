//! Control groups: what a sandbox may take, and whether it was killed for taking more (cgroups(7), version 1 and 2).
//!
//! ```text
//! .../ate-NAME/      of an executor: below its own group, or where that cannot be, below the root
//! .../ate-NAME/ID/   of a sandbox: with all of its processes, and none of the executor's
//! ```
//! The runtime is told nothing of this: where it starts something it is in the group itself, and what it starts is there too.

mod find;
mod group;

pub use find::remove_all;
pub use group::{Entrance, Group};

use super::Error;
use crate::api::resources::Limits;
use find::Base;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often it is looked whether a group is empty.
const POLL: Duration = Duration::from_millis(1);
/// Where the kernel says in which groups we are, and where groups are mounted.
const PROC: &str = "/proc/self";

/// The control groups of one executor.
#[derive(Debug)]
pub struct Groups {
    base: Result<Base, String>,
}

impl Groups {
    /// Makes the group of the executor `name`. Where that cannot be, sandboxes with limits are refused.
    pub fn open(name: &str) -> Groups {
        Groups::open_at(Path::new(PROC), name)
    }

    fn open_at(proc: &Path, name: &str) -> Groups {
        let base = find::base(proc, name);
        match &base {
            // An earlier one of that name has ended, and its sandboxes with it.
            Ok(base) => base.empty(),
            Err(why) => {
                tracing::warn!(
                    why,
                    "no control groups: sandboxes have no limits of their own"
                );
            }
        }
        Groups { base }
    }

    /// Makes the group of the sandbox `id`. None where there cannot be one and none is needed.
    ///
    /// # Errors
    /// [`Error::NoLimits`] where `limits` cannot be kept.
    pub fn make(&self, id: &str, limits: &Limits) -> Result<Option<Group>, Error> {
        let refused = |why: &String| Error::NoLimits(why.clone());
        match &self.base {
            Ok(base) => {
                let made = Group::make(base, id, limits);
                made.map(Some).map_err(|e| refused(&e.to_string()))
            }
            Err(_) if *limits == Limits::default() => Ok(None),
            Err(why) => Err(refused(why)),
        }
    }

    /// The ids of the groups that there are.
    ///
    /// # Errors
    /// [`Error::Io`] when they cannot be listed.
    pub fn there(&self) -> Result<Vec<String>, Error> {
        match &self.base {
            Ok(base) => base
                .there()
                .map_err(Error::io("cannot list control groups")),
            Err(_) => Ok(vec![]),
        }
    }
}

/// Removes a group, or finds that there is none, as soon as nothing is in it any more. Blocks.
fn remove_dir(dir: &Path, until: Instant) -> io::Result<()> {
    loop {
        match std::fs::remove_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy && Instant::now() < until => {
                std::thread::sleep(POLL);
            }
            done => return done,
        }
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        if let Ok(base) = &self.base {
            base.remove();
        }
    }
}
