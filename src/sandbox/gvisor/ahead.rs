//! A sandbox created ahead of the restore that takes it: the `create` of a wake, off its path.
//!
//! One that does not fit is ended beside the start that found that out; the next [`Sandbox::stop`](super::Sandbox::stop) waits for it.

use super::super::{Container, Error, Orphans, Sandbox, Spec, Steps};
use super::launch::check;
use super::{Current, Gvisor, NULL_NETNS};
use std::ffi::OsStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::task::JoinHandle;

/// What a slot has beside the sandbox that runs.
#[derive(Default)]
pub(super) struct Spare {
    ahead: Mutex<Option<Ahead>>,
    /// One that did not fit, on its way out.
    leaving: Mutex<Option<JoinHandle<Result<(), Error>>>>,
}

struct Ahead {
    sandbox: Arc<Current>,
    spec: Spec,
}

impl Ahead {
    /// Whether it is complete, lives, and is what a restore of `spec` would create.
    fn fits(&self, spec: &Spec, orphans: &Orphans) -> bool {
        let lives = |pid| orphans.code_of(pid).is_none();
        // The saved environment holds.
        let bare = |containers: &[Container]| -> Vec<Container> {
            let bare = |c: &Container| Container {
                env: vec![],
                ..c.clone()
            };
            containers.iter().map(bare).collect()
        };
        self.sandbox.pid().is_some_and(lives)
            && self.spec.generation == spec.generation
            && self.spec.runtime == spec.runtime
            && self.spec.netns == spec.netns
            && self.spec.state_dir == spec.state_dir
            && self.spec.limits == spec.limits
            && bare(&self.spec.containers) == bare(&spec.containers)
    }
}

impl Spare {
    /// Takes the sandbox that was created ahead if a restore of `spec` can go on with it.
    pub(super) fn take(&self, spec: &Spec, orphans: &Orphans) -> Option<Arc<Current>> {
        let mut ahead = self.ahead();
        ahead.take_if(|a| a.fits(spec, orphans)).map(|a| a.sandbox)
    }

    /// Ends what was created ahead and not taken, without waiting for it.
    pub(super) fn discard(&self, orphans: &Orphans) {
        let Some(ahead) = self.ahead().take() else {
            return;
        };
        let orphans = orphans.clone();
        let end = tokio::spawn(async move { ahead.sandbox.end(&orphans).await });
        *self.leaving() = Some(end);
    }

    /// Ends it, and says whether there was any. After an error it is known still, or shows in what is left.
    pub(super) async fn clear(&self, orphans: &Orphans) -> Result<bool, Error> {
        let leaving = self.leaving().take();
        let ahead = self.ahead().as_ref().map(|a| a.sandbox.clone());
        let had = leaving.is_some() || ahead.is_some();
        if let Some(leaving) = leaving {
            let ended = leaving.await;
            ended.unwrap_or_else(|e| Err(Error::io("cannot end a sandbox")(e.into())))?;
        }
        if let Some(ahead) = ahead {
            ahead.end(orphans).await?;
            self.ahead().take();
        }
        Ok(had)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ahead().is_none() && self.leaving().is_none()
    }

    /// Whether a file of the runtime's belongs to the sandbox that was created ahead.
    pub(super) fn owns(&self, file: &OsStr) -> bool {
        let ahead = self.ahead();
        let (Some(ahead), Some(file)) = (ahead.as_ref(), file.to_str()) else {
            return false;
        };
        file == NULL_NETNS || ahead.sandbox.ids.iter().any(|id| file.contains(id))
    }

    fn ahead(&self) -> MutexGuard<'_, Option<Ahead>> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leaving(&self) -> MutexGuard<'_, Option<JoinHandle<Result<(), Error>>>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gvisor {
    /// Creates a sandbox ahead. After an error nothing of it is left.
    pub(super) async fn create_ahead(&self, spec: &Spec) -> Result<Steps, Error> {
        check(spec)?;
        if self.current().is_some() {
            return Err(Error::Exists);
        }
        if !self.spare.is_empty() {
            self.stop().await?;
        }
        let sandbox = Arc::new(self.allot(spec)?);
        // Known before it is there: a call that is cut off leaves what can be removed.
        *self.spare.ahead() = Some(Ahead {
            sandbox: sandbox.clone(),
            spec: spec.clone(),
        });
        let mut steps = Steps::default();
        let created = self.create(&sandbox, spec, &mut steps).await;
        self.or_nothing(created).await?;
        Ok(steps)
    }
}
