//! The gVisor backend: drives the real `runsc` on the systrap platform.
//!
//! A single container is the sandbox's root (half the wake time of the pod form); several share a pause root.
//! The directory that a backend is given holds the runtime's state and the bundles, for one slot only.

mod ahead;
mod bundle;
mod image;
mod launch;
mod runsc;
#[cfg(test)]
mod tests;

use super::cgroup::Groups;
use super::{Error, Exit, Observed, Orphans, Sandbox, Spec, Steps};
use ahead::Spare;
use async_trait::async_trait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runsc::{Call, Runsc};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

pub use image::FILES as IMAGE_FILES;

/// How long the processes of a deleted sandbox may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the containers of a pod are looked at: their end is not that of the sandbox.
const POD_POLL: Duration = Duration::from_secs(1);
/// What `runsc` binds into its root directory: a network namespace without anything.
const NULL_NETNS: &str = "null-netns";
/// The exit code where the runtime does not tell it.
const UNKNOWN_EXIT: i32 = 255;

/// The sandboxes of one slot: at most one that runs, and one created ahead.
pub struct Gvisor {
    dir: PathBuf,
    orphans: Orphans,
    current: watch::Sender<Option<Arc<Current>>>,
    spare: Spare,
    groups: Groups,
    /// How many there were; each has ids of its own.
    made: AtomicU64,
}

/// The sandbox that exists, or is on its way to or from existing.
struct Current {
    runsc: Runsc,
    /// Root first; ids of one length, for `runsc` matches by prefix.
    ids: Vec<String>,
    /// Those of the containers, in the order of their ids.
    names: Vec<String>,
    /// The sandbox's process; 0 until it is known.
    pid: AtomicI32,
    /// Its containers were all set going, and nothing has made it stand still since.
    going: AtomicBool,
    /// We are about to end it, so its end is nothing to report.
    ending: AtomicBool,
}

impl Current {
    fn root(&self) -> &str {
        &self.ids[0]
    }

    fn pid(&self) -> Option<i32> {
        Some(self.pid.load(Ordering::SeqCst)).filter(|&pid| pid != 0)
    }

    /// Ends it and waits until its process is gone.
    async fn end(&self, orphans: &Orphans) -> Result<(), Error> {
        self.ending.store(true, Ordering::SeqCst);
        // Its memory is given back while the runtime starts that removes it.
        if let Some(pid) = self.pid().filter(|&pid| orphans.code_of(pid).is_none()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        // Always with force: a stopped container is sometimes refused without. The root first, for that ends the
        // sandbox; a member of a frozen sandbox could not be ended.
        let ids = self.ids.iter().map(String::as_str);
        let args: Vec<&str> = ["-force"].into_iter().chain(ids).collect();
        self.call(&runsc::DELETE, &args).await?;
        if let Some(pid) = self.pid() {
            tokio::time::timeout(END_TIMEOUT, orphans.ended(pid))
                .await
                .map_err(|_| Error::Timeout {
                    call: runsc::DELETE.name,
                    after: END_TIMEOUT,
                })?;
        }
        match &self.runsc.group {
            Some(group) => {
                let removed = group.remove().await;
                removed.map_err(Error::io("cannot remove the control group of a sandbox"))
            }
            None => Ok(()),
        }
    }

    /// Lets it take memory without bound while nothing in it runs: what is written into an image counts, too.
    fn within_limits(&self, bound: bool) -> Result<(), Error> {
        let Some(group) = &self.runsc.group else {
            return Ok(());
        };
        let written = match bound {
            true => group.bind(),
            false => group.release(),
        };
        written.map_err(Error::io("cannot change the limit of a control group"))
    }

    /// That it has ended with `code`: all of it, or that container.
    fn exit(&self, container: Option<&String>, code: i32) -> Exit {
        let group = self.runsc.group.as_ref();
        let killed = group.filter(|group| group.ran_out());
        Exit {
            container: container.cloned().unwrap_or_default(),
            code,
            out_of_memory: killed.map(|group| group.bound()),
        }
    }

    /// Its process has ended: as the only container did, or because it was killed.
    fn root_exit(&self, code: i32) -> Exit {
        match &self.names[..] {
            [only] => self.exit(Some(only), code),
            _ => self.exit(None, code),
        }
    }

    async fn call(&self, call: &Call, args: &[&str]) -> Result<String, Error> {
        self.runsc.call(call, args).await
    }

    /// The runtime's word for the state of a container.
    async fn status(&self, id: &str) -> Result<String, Error> {
        #[derive(serde::Deserialize)]
        struct State {
            status: String,
        }
        self.ask(&runsc::STATE, id)
            .await
            .map(|state: State| state.status)
    }

    /// The exit code of a container that has stopped, while its sandbox runs.
    async fn exit_code(&self, id: &str) -> Result<i32, Error> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Exit {
            exit_status: i32,
        }
        self.ask(&runsc::WAIT, id)
            .await
            .map(|exit: Exit| exit.exit_status)
    }

    async fn ask<T: serde::de::DeserializeOwned>(&self, call: &Call, id: &str) -> Result<T, Error> {
        // A log of its own: may be asked while another call is under way.
        let asking = Runsc {
            log: self.runsc.log.with_extension("state.log"),
            ..self.runsc.clone()
        };
        let answer = asking.call(call, [id]).await?;
        serde_json::from_str(&answer).map_err(|e| Error::Runtime {
            call: call.name,
            message: format!("its answer is not the expected JSON: {e}"),
        })
    }
}

impl Gvisor {
    /// A backend that keeps its own things in `dir`, which it makes and empties: no sandbox of an earlier life can be
    /// left when this is called, for they end with their executor.
    ///
    /// # Errors
    /// [`Error::Io`] when `dir` cannot be made or emptied.
    pub fn new(dir: PathBuf, groups: Groups, orphans: Orphans) -> Result<Gvisor, Error> {
        let what = format!("cannot prepare {}", dir.display());
        match std::fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(what)(e)),
            _ => {}
        }
        for sub in ["root", "bundles", "logs"] {
            std::fs::create_dir_all(dir.join(sub)).map_err(Error::io(what.clone()))?;
        }
        Ok(Gvisor {
            dir,
            orphans,
            current: watch::Sender::new(None),
            spare: Spare::default(),
            groups,
            made: AtomicU64::new(0),
        })
    }

    fn current(&self) -> Option<Arc<Current>> {
        self.current.borrow().clone()
    }

    /// Removes the bundles, the messages, and the network namespace that `runsc` binds into its root directory.
    fn sweep(&self) -> Result<(), Error> {
        let null_netns = self.dir.join("root").join(NULL_NETNS);
        if null_netns.exists() {
            let _ = nix::mount::umount2(&null_netns, nix::mount::MntFlags::MNT_DETACH);
            std::fs::remove_file(&null_netns)
                .map_err(Error::io(format!("cannot remove {}", null_netns.display())))?;
        }
        ["bundles", "logs"].iter().try_for_each(|sub| {
            let dir = self.dir.join(sub);
            std::fs::remove_dir_all(&dir)
                .and_then(|()| std::fs::create_dir(&dir))
                .map_err(Error::io(format!("cannot empty {}", dir.display())))
        })
    }

    /// Whether it runs as far as we know without asking.
    fn goes(&self, current: &Current) -> bool {
        let lives = |pid| self.orphans.code_of(pid).is_none();
        current.going.load(Ordering::SeqCst) && current.pid().is_some_and(lives)
    }

    /// Undoes a pause, after a checkpoint that failed with `cause`.
    async fn undo_pause(&self, current: &Current, cause: Error) -> Error {
        let bound = current.within_limits(true);
        let resumed = current.call(&runsc::RESUME, &[current.root()]).await;
        match bound.and(resumed.map(drop)) {
            Ok(()) => cause,
            Err(resume) => Error::Frozen {
                message: format!("{resume} (after: {cause})"),
            },
        }
    }

    /// Has the runtime bring the sandbox from one of its states to another, where it may be already.
    async fn switch(&self, call: &Call, from: &str, to: &str) -> Result<(), Error> {
        let absent = || Error::NotRunning {
            state: "absent".into(),
        };
        let current = self.current().ok_or_else(absent)?;
        match current.status(current.root()).await? {
            state if state == to => Ok(()),
            state if state == from => current.call(call, &[current.root()]).await.map(drop),
            state => Err(Error::NotRunning { state }),
        }
    }

    /// The end of one container is the end of a pod: its restart would not be the actor that it was.
    async fn observe_pod(&self, current: &Current) -> Result<Observed, Error> {
        for (id, name) in current.ids[1..].iter().zip(&current.names) {
            if current.status(id).await? == "stopped" {
                let code = current.exit_code(id).await.unwrap_or(UNKNOWN_EXIT);
                return Ok(Observed::Exited(current.exit(Some(name), code)));
            }
        }
        Ok(Observed::Running)
    }

    /// Returns when the containers of `current`, or its sandbox, have ended.
    async fn ended(&self, current: &Current) -> Exit {
        loop {
            match current.pid() {
                None => tokio::time::sleep(POD_POLL).await,
                Some(pid) if current.ids.len() == 1 => {
                    return current.root_exit(self.orphans.ended(pid).await);
                }
                Some(pid) => tokio::select! {
                    code = self.orphans.ended(pid) => return current.root_exit(code),
                    () = tokio::time::sleep(POD_POLL) => {}
                },
            }
            if current.pid().is_some()
                && let Ok(Observed::Exited(exit)) = self.observe_pod(current).await
            {
                return exit;
            }
        }
    }
}

#[async_trait]
impl Sandbox for Gvisor {
    async fn prepare(&self, spec: &Spec) -> Result<Steps, Error> {
        self.create_ahead(spec).await
    }

    async fn run(&self, spec: &Spec) -> Result<Steps, Error> {
        self.launch(spec, None).await
    }

    async fn checkpoint(&self, image_dir: &Path) -> Result<Steps, Error> {
        let mut steps = Steps::default();
        let absent = || Error::NotRunning {
            state: "absent".into(),
        };
        let current = self.current().ok_or_else(absent)?;
        let root = current.root();
        // A checkpoint of a container that was created but not started succeeds, and ruins it.
        if !self.goes(&current) {
            let state = current.status(root).await?;
            return Err(Error::NotRunning { state });
        }
        let draft = image::Draft::new(image_dir)?;
        // Without pause and leave-running, a checkpoint that fails (a full disk) ends the sandbox.
        let args = [root];
        let paused = steps.time("pause", current.call(&runsc::PAUSE, &args));
        if let Err(e) = paused.await {
            return Err(match current.status(root).await {
                Ok(state) if state == "stopped" => Error::NotRunning { state },
                _ => self.undo_pause(&current, e).await,
            });
        }
        if let Err(e) = current.within_limits(false) {
            return Err(self.undo_pause(&current, e).await);
        }
        let dir = draft.dir().to_str().map(str::to_owned).unwrap_or_default();
        let args = ["-leave-running", "-image-path", &dir, root];
        let call = current
            .runsc
            .call_writing(&runsc::CHECKPOINT, args, Some(draft.dir()));
        let saved = steps.time("checkpoint", call);
        if let Err(e) = saved.await.and_then(|_| draft.finish()) {
            return Err(self.undo_pause(&current, e).await);
        }
        match self.stop().await {
            Ok(more) => steps.extend(more),
            // The image counts; that the sandbox is still there, frozen, shows when one observes.
            Err(e) => tracing::warn!(error = %e, "cannot end the sandbox after its checkpoint"),
        }
        Ok(steps)
    }

    async fn restore(&self, spec: &Spec, image_dir: &Path) -> Result<Steps, Error> {
        image::verify(image_dir)?;
        self.launch(spec, Some(image_dir)).await
    }

    async fn freeze(&self) -> Result<(), Error> {
        if let Some(current) = self.current() {
            current.going.store(false, Ordering::SeqCst);
        }
        self.switch(&runsc::PAUSE, "running", "paused").await
    }

    async fn thaw(&self) -> Result<(), Error> {
        self.switch(&runsc::RESUME, "paused", "running").await?;
        if let Some(current) = self.current() {
            current.going.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    async fn stop(&self) -> Result<Steps, Error> {
        let mut steps = Steps::default();
        let had_spare = self.spare.clear(&self.orphans).await?;
        let current = self.current();
        if let Some(current) = &current {
            steps.time("delete", current.end(&self.orphans)).await?;
        }
        if had_spare || current.is_some() {
            self.sweep()?;
            self.current.send_replace(None);
        }
        Ok(steps)
    }

    async fn observe(&self) -> Result<Observed, Error> {
        let Some(current) = self.current() else {
            return Ok(Observed::Absent);
        };
        let Some(pid) = current.pid() else {
            return Ok(Observed::Frozen);
        };
        if let Some(code) = self.orphans.code_of(pid) {
            return Ok(Observed::Exited(current.root_exit(code)));
        }
        match current.status(current.root()).await?.as_str() {
            "running" => self.observe_pod(&current).await,
            "stopped" => {
                let code = tokio::time::timeout(END_TIMEOUT, self.orphans.ended(pid)).await;
                let code = code.unwrap_or(UNKNOWN_EXIT);
                Ok(Observed::Exited(current.root_exit(code)))
            }
            _ => Ok(Observed::Frozen),
        }
    }

    async fn exited(&self) -> Exit {
        let mut changes = self.current.subscribe();
        loop {
            let current = changes.borrow_and_update().clone();
            let Some(current) = current else {
                // Fails only when `self` is gone.
                let _ = changes.changed().await;
                continue;
            };
            tokio::select! {
                exit = self.ended(&current) => {
                    if !current.ending.load(Ordering::SeqCst) {
                        return exit;
                    }
                    let _ = changes.changed().await;
                }
                _ = changes.changed() => {}
            }
        }
    }

    fn residue(&self) -> Result<Vec<String>, Error> {
        let mut left = Vec::new();
        for sub in ["bundles", "root"] {
            let dir = self.dir.join(sub);
            let entries = std::fs::read_dir(&dir)
                .map_err(Error::io(format!("cannot list {}", dir.display())))?;
            let strange = entries
                .flatten()
                .filter(|e| !self.spare.owns(&e.file_name()));
            left.extend(strange.map(|e| e.path().display().to_string()));
        }
        let groups = self.groups.there()?;
        let strange = groups.iter().filter(|id| !self.spare.owns(id.as_ref()));
        left.extend(strange.map(|id| format!("control group {id}")));
        Ok(left)
    }
}
