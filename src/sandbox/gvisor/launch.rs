//! Bringing a sandbox into being, fresh or from an image.

use super::super::{Container, Error, Sandbox, Spec, Steps, logs, pause};
use super::bundle::{self, Role};
use super::runsc::{self, Runsc};
use super::{Current, Gvisor};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// More containers than any template has; the ids count them with two digits.
const MAX_CONTAINERS: usize = 64;
/// Name of the pause root's log.
const PAUSE_LOG: &str = ".pause";

impl Gvisor {
    /// Runs `spec`, from `image` if there is one. After an error nothing of it is left.
    pub(super) async fn launch(&self, spec: &Spec, image: Option<&Path>) -> Result<Steps, Error> {
        check(spec)?;
        if self.current().is_some() {
            return Err(Error::Exists);
        }
        self.orphans.forget();
        let current = Arc::new(self.prepare(spec)?);
        self.current.send_replace(Some(current.clone()));
        let mut steps = Steps::default();
        let result = match &spec.containers[..] {
            [only] => {
                self.launch_alone(&current, spec, only, image, &mut steps)
                    .await
            }
            _ => self.launch_pod(&current, spec, image, &mut steps).await,
        };
        if let Err(error) = result {
            if let Err(e) = self.stop().await {
                tracing::warn!(error = %e, "cannot remove what is left of a failed start");
            }
            return Err(error);
        }
        Ok(steps)
    }

    /// Directories and ids of a new sandbox.
    fn prepare(&self, spec: &Spec) -> Result<Current, Error> {
        bundle::write_identity(spec)?;
        let overlay = spec.state_dir.join("overlay");
        std::fs::create_dir_all(&overlay)
            .map_err(Error::io(format!("cannot make {}", overlay.display())))?;
        let members = match spec.containers.len() {
            1 => 0,
            n => n,
        };
        Ok(Current {
            runsc: Runsc {
                exe: spec.runtime.clone(),
                root: self.dir.join("root"),
                overlay,
                log: self.dir.join("runsc.log"),
            },
            ids: (0..=members).map(|index| id(spec.epoch, index)).collect(),
            pid: 0.into(),
            ending: false.into(),
        })
    }

    async fn launch_alone(
        &self,
        current: &Current,
        spec: &Spec,
        container: &Container,
        image: Option<&Path>,
        steps: &mut Steps,
    ) -> Result<(), Error> {
        let id = current.root();
        let bundle = self.bundle(id);
        bundle::write(&bundle, spec, container, &Role::Alone)?;
        let log = logs::open(&spec.log_dir, &container.name)?;
        let create = self.create_root(current, &bundle, log);
        steps.time("create", create).await?;
        let (name, call, args) = launching(image, id);
        steps.time(name, current.runsc.call(call, args)).await?;
        Ok(())
    }

    async fn launch_pod(
        &self,
        current: &Current,
        spec: &Spec,
        image: Option<&Path>,
        steps: &mut Steps,
    ) -> Result<(), Error> {
        let root = current.root();
        let bundle = self.bundle(root);
        let holder = pause::container(&self.dir.join("pause"))?;
        bundle::write(&bundle, spec, &holder, &Role::PauseRoot)?;
        let log = logs::open(&spec.log_dir, PAUSE_LOG)?;
        let create = self.create_root(current, &bundle, log);
        steps.time("create pause", create).await?;
        let (_, call, args) = launching(image, root);
        let start = current.runsc.call(call, args);
        steps.time("start pause", start).await?;
        for (container, id) in spec.containers.iter().zip(&current.ids[1..]) {
            let bundle = self.bundle(id);
            bundle::write(&bundle, spec, container, &Role::Member { sandbox: root })?;
            let log = logs::open(&spec.log_dir, &container.name)?;
            let again = log.try_clone().map_err(Error::io("cannot share a log"))?;
            let args = ["-bundle".as_ref(), bundle.as_os_str(), id.as_ref()];
            let create = current.runsc.call_with_output(&runsc::CREATE, args, log);
            steps.time("create", create).await?;
            // Output of the root comes from its create, that of the others from start or restore.
            let (name, call, args) = launching(image, id);
            let start = current.runsc.call_with_output(call, args, again);
            steps.time(name, start).await?;
        }
        Ok(())
    }

    /// As far as a start comes when it is cut off between its two calls.
    #[cfg(test)]
    pub(super) async fn create_only(&self, spec: &Spec) -> Result<(), Error> {
        let current = Arc::new(self.prepare(spec)?);
        self.current.send_replace(Some(current.clone()));
        let bundle = self.bundle(current.root());
        bundle::write(&bundle, spec, &spec.containers[0], &Role::Alone)?;
        let log = logs::open(&spec.log_dir, "app")?;
        self.create_root(&current, &bundle, log).await
    }

    async fn create_root(
        &self,
        current: &Current,
        bundle: &Path,
        log: std::fs::File,
    ) -> Result<(), Error> {
        let pid_file = bundle.join("pid");
        let args = [
            "-bundle".as_ref(),
            bundle.as_os_str(),
            "-pid-file".as_ref(),
            pid_file.as_os_str(),
            current.root().as_ref(),
        ];
        current
            .runsc
            .call_with_output(&runsc::CREATE, args, log)
            .await?;
        let pid = std::fs::read_to_string(&pid_file)
            .map_err(Error::io(format!("cannot read {}", pid_file.display())))?;
        let pid = pid.trim().parse().map_err(|_| Error::Runtime {
            call: runsc::CREATE.name,
            message: format!("{pid:?} is no process id"),
        })?;
        current.pid.store(pid, Ordering::SeqCst);
        Ok(())
    }

    fn bundle(&self, id: &str) -> PathBuf {
        self.dir.join("bundles").join(id)
    }
}

/// The call that sets a created container going.
fn launching(
    image: Option<&Path>,
    id: &str,
) -> (&'static str, &'static runsc::Call, Vec<std::ffi::OsString>) {
    match image {
        None => ("start", &runsc::START, vec![id.into()]),
        Some(image) => (
            "restore",
            &runsc::RESTORE,
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
fn id(epoch: u64, index: usize) -> String {
    format!("s{epoch:016x}{index:02x}")
}

fn check(spec: &Spec) -> Result<(), Error> {
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
            .flat_map(|epoch| [0, 1, MAX_CONTAINERS].map(|index| id(epoch, index)))
            .collect();
        for a in &ids {
            assert_eq!(ids.iter().filter(|b| b.starts_with(a.as_str())).count(), 1);
        }
    }
}
