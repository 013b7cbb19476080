//! A sandbox created ahead on a free slot, so that the next restore finds the runtime's `create` done.
//!
//! It has a generation of its own, and with that a directory and output files, which become those of the assignment that takes it. One that
//! does not fit is removed by the executor; its directory goes when the slot is freed.

use super::super::files::Ahead;
use super::super::outcome::Failure;
use super::super::provider::{Access, Place};
use super::super::runtime::Runtime;
use super::start::{boot_failed, images_of, make_dir};
use super::{Slot, State};
use crate::api::Reason;
use crate::lifecycle::slot::worth_ahead;
use crate::proto::atenode::{
    ContainerBundle, Limits, PrepareWorkloadRequest, SandboxSpec, Workload,
};
use prost::Message;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// How many are created at once on a node: what is awake comes first.
pub(in super::super) const AT_ONCE: usize = 2;
/// How long an executor may take to create one.
const PREPARE_LIMIT: Duration = Duration::from_secs(60);
/// Pools whose latest workload is remembered.
const MAX_POOLS: usize = 1024;
/// In the directory of a sandbox: its output, until it is somebody's.
const LOGS: &str = "logs";

/// What each pool has started last on this node.
pub(in super::super) struct Latest(watch::Sender<HashMap<(String, String), Workload>>);

impl Latest {
    pub fn new() -> Latest {
        Latest(watch::Sender::new(HashMap::new()))
    }

    /// Told when a pool starts something else than before.
    pub fn subscribe(&self) -> watch::Receiver<HashMap<(String, String), Workload>> {
        self.0.subscribe()
    }

    fn of(&self, place: &Place) -> Option<Workload> {
        self.0.borrow().get(&pool(place)).cloned()
    }

    fn note(&self, place: &Place, workload: &Workload) {
        self.0.send_if_modified(|all| {
            if all.len() == MAX_POOLS && !all.contains_key(&pool(place)) {
                all.clear();
            }
            all.insert(pool(place), workload.clone()).as_ref() != Some(workload)
        });
    }
}

fn pool(place: &Place) -> (String, String) {
    (place.namespace.clone(), place.pool.clone())
}

impl Slot {
    /// It has started `workload`, and others of the pool may soon.
    pub(super) fn started(&self, state: &mut State, workload: &Workload) {
        let mut workload = workload.clone();
        // A restored sandbox has its environment in memory, and secrets are not ours to keep.
        workload.containers.iter_mut().for_each(|c| c.env.clear());
        let secrets = std::mem::take(&mut workload.pull_secrets);
        workload.pull_secrets_left_out |= !secrets.is_empty();
        self.node.latest.note(&self.place, &workload);
        state.last = Some(workload);
    }

    /// What a sandbox is to be created for while the slot is free, if for anything.
    pub(super) fn wants_ahead(&self, state: &State) -> Option<Workload> {
        let has = state.desired.ahead.is_some() || state.tried;
        let latest = self.node.latest.of(&self.place);
        worth_ahead(has, state.last.as_ref(), latest.as_ref()).cloned()
    }

    /// Creates a sandbox ahead. An order that comes before the executor was told goes first. Whether it can be done is tried once: what is
    /// wrong shows when an assignment needs it.
    pub(super) async fn prepare_ahead(&self) {
        let wanted = self.wants_ahead(&self.state());
        let Some(workload) = wanted else { return };
        let made = async {
            let turn = self.node.creating.acquire().await;
            let runtime = self.node.runtimes.resolve(workload.runtime.as_ref()).await;
            let containers = self.bundles_ahead(&workload).await;
            (turn, runtime, containers)
        };
        let (_turn, runtime, containers) = tokio::select! {
            biased;
            () = self.wake.notified() => return,
            made = made => made,
        };
        self.state().tried = true;
        let created = match (runtime, containers) {
            (Ok(runtime), Ok(containers)) => {
                self.create_ahead(&workload, &runtime, containers).await
            }
            (Err(failure), _) | (_, Err(failure)) => Err(failure),
        };
        if let Err(failure) = created {
            tracing::warn!(
                slot = self.place.name(),
                ?failure,
                "cannot create a sandbox ahead"
            );
            self.look().await;
        }
    }

    async fn bundles_ahead(&self, workload: &Workload) -> Result<Vec<ContainerBundle>, Failure> {
        self.node.images.may_be_missing(workload).await?;
        self.node.images.bundles(workload).await
    }

    async fn create_ahead(
        &self,
        workload: &Workload,
        runtime: &Runtime,
        mut containers: Vec<ContainerBundle>,
    ) -> Result<(), Failure> {
        let generation = uuid::Uuid::new_v4().to_string();
        let executor = {
            let mut state = self.state();
            state.desired.ahead = Some(Ahead {
                generation: generation.clone(),
                fits: fits(runtime, &containers, workload.limits),
                images: images_of(workload),
            });
            // Before there is anything, so that it is found.
            self.persist(&state).map_err(|e| boot_failed(&e))?;
            state.executor.clone()
        };
        let Some(mut executor) = executor else {
            return Ok(());
        };
        let dir = self.sandbox_dir(&generation);
        make_dir(&dir.join(LOGS)).map_err(|e| boot_failed(&e))?;
        let (runtime_path, state_dir) = self.lend_parts(&mut containers, runtime, &dir)?;
        let spec = SandboxSpec {
            generation,
            containers,
            runtime: workload.runtime.clone(),
            runtime_path: runtime_path.display().to_string(),
            log_dir: state_dir.join(LOGS).display().to_string(),
            state_dir: state_dir.display().to_string(),
            limits: workload.limits,
            dns: workload.dns.clone(),
            ..SandboxSpec::default()
        };
        let request = PrepareWorkloadRequest { spec: Some(spec) };
        let failed = |message: String| Failure::Failed(Reason::BootFailed, message);
        match timeout(PREPARE_LIMIT, executor.client.prepare_workload(request)).await {
            Ok(Ok(answer)) => {
                let steps = answer.into_inner().steps;
                tracing::debug!(
                    slot = self.place.name(),
                    ?steps,
                    "a sandbox is created ahead"
                );
                Ok(())
            }
            Ok(Err(status)) => Err(failed(status.message().to_owned())),
            Err(_) => Err(failed("the executor does not answer".to_owned())),
        }
    }

    /// Lends the executor what a sandbox is made of: returns where it sees the runtime, and the directory `state` of the sandbox.
    pub(super) fn lend_parts(
        &self,
        containers: &mut [ContainerBundle],
        runtime: &Runtime,
        state: &Path,
    ) -> Result<(PathBuf, PathBuf), Failure> {
        for container in containers {
            let name = format!("rootfs-{}", container.name);
            let rootfs = self.lend(&name, Path::new(&container.rootfs), Access::Read)?;
            container.rootfs = rootfs.display().to_string();
        }
        let runtime = self.lend("runtime", &runtime.path, Access::Read)?;
        Ok((runtime, self.lend("state", state, Access::Write)?))
    }

    pub(super) fn lend(
        &self,
        name: &str,
        source: &Path,
        access: Access,
    ) -> Result<PathBuf, Failure> {
        let lent = self.node.provider.lend(&self.place, name, source, access);
        lent.map_err(|e| boot_failed(&e))
    }

    /// Where the output of a sandbox that was created ahead goes.
    pub(super) fn logs_ahead(&self, generation: &str) -> PathBuf {
        self.sandbox_dir(generation).join(LOGS)
    }
}

impl State {
    /// Makes the sandbox that was created ahead the assignment's if it is made of the same. Its directory is that of its generation.
    pub(super) fn take_ahead(&mut self, fits: &str) -> bool {
        let ahead = self.desired.ahead.take_if(|ahead| ahead.fits == fits);
        match (ahead, &mut self.desired.assignment) {
            (Some(ahead), Some(assignment)) => {
                assignment.generation = ahead.generation;
                true
            }
            _ => false,
        }
    }
}

/// What a restore must be made of to take a sandbox that was created ahead. Of two that are equal the executor makes the same.
pub(super) fn fits(
    runtime: &Runtime,
    containers: &[ContainerBundle],
    limits: Option<Limits>,
) -> String {
    let bare = |c: &ContainerBundle| ContainerBundle {
        env: vec![],
        readyz: None,
        ..c.clone()
    };
    let spec = SandboxSpec {
        containers: containers.iter().map(bare).collect(),
        runtime_path: runtime.path.display().to_string(),
        limits,
        ..SandboxSpec::default()
    };
    hex::encode(Sha256::digest(spec.encode_to_vec()))
}
