//! Bringing a sandbox into being, fresh or from an image.

use super::super::{Error, Sandbox, Spec, Steps, etc, logs, pause};
use super::bundle::{self, Role};
use super::runsc::{self, Runsc};
use super::{Current, Gvisor};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// More containers than any template has; the ids count them with two digits.
const MAX_CONTAINERS: usize = 64;
/// Where in its directory a sandbox writes.
const OVERLAY: &str = "overlay";
/// Name of the pause root's log.
const PAUSE_LOG: &str = ".pause";

impl Gvisor {
    /// Runs `spec`, from `image` if there is one. After an error nothing of it is left.
    pub(super) async fn launch(&self, spec: &Spec, image: Option<&Path>) -> Result<Steps, Error> {
        check(spec)?;
        if self.current().is_some() {
            return Err(Error::Exists);
        }
        // What was created ahead has no environment to start with.
        let ahead = image.and_then(|_| self.spare.take(spec, &self.orphans));
        let created = ahead.is_some();
        let current = match ahead {
            Some(ahead) => ahead,
            None => Arc::new(self.allot(spec)?),
        };
        self.current.send_replace(Some(current.clone()));
        let mut steps = Steps::default();
        let launched = async {
            bundle::write_identity(spec)?;
            match created {
                true => etc::write(spec)?,
                false => self.create(&current, spec, &mut steps).await?,
            }
            self.set_going(&current, spec, image, &mut steps).await
        };
        let launched = launched.await;
        self.or_nothing(launched).await?;
        current.going.store(true, Ordering::SeqCst);
        self.spare.discard(&self.orphans);
        Ok(steps)
    }

    /// Removes everything if there is an error.
    pub(super) async fn or_nothing(&self, result: Result<(), Error>) -> Result<(), Error> {
        if result.is_err()
            && let Err(e) = self.stop().await
        {
            tracing::warn!(error = %e, "cannot remove what is left of a failed start");
        }
        result
    }

    /// Directories and ids of a new sandbox.
    pub(super) fn allot(&self, spec: &Spec) -> Result<Current, Error> {
        if self.spare.is_empty() {
            self.orphans.forget();
        }
        for dir in [
            spec.state_dir.join(OVERLAY),
            bundle::identity_dir(&spec.state_dir),
        ] {
            std::fs::create_dir_all(&dir)
                .map_err(Error::io(format!("cannot make {}", dir.display())))?;
        }
        etc::write(spec)?;
        let members = match spec.containers.len() {
            1 => 0,
            n => n,
        };
        let number = self.made.fetch_add(1, Ordering::SeqCst);
        let group = self.groups.make(&id(number, 0), &spec.limits)?;
        Ok(Current {
            names: spec.containers.iter().map(|c| c.name.clone()).collect(),
            runsc: Runsc {
                group: group.map(Arc::new),
                exe: spec.runtime.clone(),
                root: self.dir.join("root"),
                overlay: spec.state_dir.join(OVERLAY),
                log: self.dir.join("logs").join(format!("{}.log", id(number, 0))),
            },
            ids: (0..=members).map(|index| id(number, index)).collect(),
            pid: 0.into(),
            going: false.into(),
            ending: false.into(),
        })
    }

    /// Creates the sandbox with its root, the only container or the one that holds the others; and these.
    pub(super) async fn create(
        &self,
        current: &Current,
        spec: &Spec,
        steps: &mut Steps,
    ) -> Result<(), Error> {
        self.create_root(current, spec, steps).await?;
        self.create_members(current, spec, steps).await
    }

    async fn create_root(
        &self,
        current: &Current,
        spec: &Spec,
        steps: &mut Steps,
    ) -> Result<(), Error> {
        let bundle = self.bundle(current.root());
        let (step, log) = match &spec.containers[..] {
            [only] => {
                bundle::write(&bundle, spec, only, &Role::Alone)?;
                ("create", logs::open(&spec.log_dir, &only.name)?)
            }
            _ => {
                let holder = pause::container(&self.dir.join("pause"))?;
                bundle::write(&bundle, spec, &holder, &Role::PauseRoot)?;
                ("create pause", logs::open(&spec.log_dir, PAUSE_LOG)?)
            }
        };
        let pid_file = bundle.join("pid");
        let args = [
            "-bundle".as_ref(),
            bundle.as_os_str(),
            "-pid-file".as_ref(),
            pid_file.as_os_str(),
            current.root().as_ref(),
        ];
        let create = current.runsc.call_with_output(&runsc::CREATE, args, log);
        steps.time(step, create).await?;
        let strange = |why: String| Error::Runtime {
            call: runsc::CREATE.name,
            message: format!("it left no process id: {why}"),
        };
        let pid = std::fs::read_to_string(&pid_file).map_err(|e| strange(e.to_string()))?;
        let pid = pid.trim().parse().map_err(|_| strange(pid.clone()))?;
        current.pid.store(pid, Ordering::SeqCst);
        Ok(())
    }

    /// Of what starts no process yet.
    async fn create_members(
        &self,
        current: &Current,
        spec: &Spec,
        steps: &mut Steps,
    ) -> Result<(), Error> {
        let sandbox = current.root();
        for (container, id) in spec.containers.iter().zip(&current.ids[1..]) {
            let bundle = self.bundle(id);
            bundle::write(&bundle, spec, container, &Role::Member { sandbox })?;
            let args = ["-bundle".as_ref(), bundle.as_os_str(), id.as_ref()];
            let create = current.runsc.call(&runsc::CREATE, args);
            steps.time("create", create).await?;
        }
        Ok(())
    }

    /// Starts or restores the root that was created, then the containers that it holds.
    async fn set_going(
        &self,
        current: &Current,
        spec: &Spec,
        image: Option<&Path>,
        steps: &mut Steps,
    ) -> Result<(), Error> {
        let root = current.root();
        let (name, call, args) = launching(image, root);
        let going = current.runsc.call(&call, args);
        let [_] = &spec.containers[..] else {
            steps.time("start pause", going).await?;
            return self.set_members_going(current, spec, image, steps).await;
        };
        steps.time(name, going).await.map(drop)
    }

    async fn set_members_going(
        &self,
        current: &Current,
        spec: &Spec,
        image: Option<&Path>,
        steps: &mut Steps,
    ) -> Result<(), Error> {
        for (container, id) in spec.containers.iter().zip(&current.ids[1..]) {
            // Output of the root comes from its create, that of the others from start or restore.
            let log = logs::open(&spec.log_dir, &container.name)?;
            let (name, call, args) = launching(image, id);
            let going = current.runsc.call_with_output(&call, args, log);
            steps.time(name, going).await?;
        }
        Ok(())
    }

    /// As far as a start comes when it is cut off between its two calls.
    #[cfg(test)]
    pub(super) async fn create_only(&self, spec: &Spec) -> Result<(), Error> {
        let current = Arc::new(self.allot(spec)?);
        self.current.send_replace(Some(current.clone()));
        self.create(&current, spec, &mut Steps::default()).await
    }

    fn bundle(&self, id: &str) -> PathBuf {
        self.dir.join("bundles").join(id)
    }
}

/// The call that sets a created container going.
fn launching(
    image: Option<&Path>,
    id: &str,
) -> (&'static str, runsc::Call, Vec<std::ffi::OsString>) {
    match image {
        None => ("start", runsc::START, vec![id.into()]),
        Some(image) => (
            "restore",
            runsc::restore(image),
            vec![
                "-detach".into(),
                "-image-path".into(),
                image.into(),
                id.into(),
            ],
        ),
    }
}

/// Ids of one length, for `runsc delete abc1` deletes `abc10` too.
fn id(number: u64, index: usize) -> String {
    format!("s{number:016x}{index:02x}")
}

pub(super) fn check(spec: &Spec) -> Result<(), Error> {
    let invalid = |message: String| Err(Error::Invalid(message));
    if spec.containers.is_empty() || spec.containers.len() > MAX_CONTAINERS {
        return invalid(format!("1 to {MAX_CONTAINERS} containers are needed"));
    }
    for (index, container) in spec.containers.iter().enumerate() {
        let name = &container.name;
        let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || !name.chars().all(label) {
            return invalid(format!("{name:?} is no container name (a DNS label)"));
        }
        if spec.containers[..index].iter().any(|c| c.name == *name) {
            return invalid(format!("two containers are called {name}"));
        }
        if container.args.is_empty() {
            return invalid(format!("container {name} has no command"));
        }
        if !container.rootfs.is_dir() {
            return invalid(format!(
                "container {name}: {} is no directory",
                container.rootfs.display()
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_id_is_the_beginning_of_another() {
        let ids: Vec<_> = [1, 16, u64::MAX]
            .into_iter()
            .flat_map(|number| [0, 1, MAX_CONTAINERS].map(|index| id(number, index)))
            .collect();
        for a in &ids {
            assert_eq!(ids.iter().filter(|b| b.starts_with(a.as_str())).count(), 1);
        }
    }
}
