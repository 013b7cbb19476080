//! Bringing an assignment up.

use super::super::error::{Error, io};
use super::super::files::{self, Identity, Phase};
use super::super::logs::CONTAINERS;
use super::super::outcome::{Answer, Failure};
use super::super::provider::{Access, Executor};
use super::op::{Kind, Op};
use super::{MAX_PORTS, Slot, address, ahead};
use crate::api::{Reason, SnapshotId};
use crate::lifecycle::Observed;
use crate::lifecycle::slot::Sandbox;
use crate::proto::atenode::{
    RestoreWorkloadRequest, RunWorkloadRequest, SandboxSpec, StepTiming, Workload,
};
use crate::sandbox::logs;
use crate::snapshot::Pin;
use rand::Rng;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::timeout;
use tonic::{Code, Status};

/// How long an executor may take to bring a sandbox up. Readiness has bounds of its own, which are shorter.
const START_LIMIT: Duration = Duration::from_secs(600);
/// Ports of assignments.
const PORTS: std::ops::RangeInclusive<u16> = 20_000..=59_999;

/// Everything that an executor is told.
struct Prepared {
    spec: SandboxSpec,
    /// Where the executor finds the image; kept on the node meanwhile.
    image: Option<(PathBuf, Pin)>,
    executor: Executor,
}

impl Slot {
    /// Carries a start out. How it went is kept with the order, for those who wait.
    pub(super) async fn bring_up(&self) {
        let Some(op) = self.state().op_of(Kind::Start) else {
            return;
        };
        op.lap("queue");
        let result = tokio::select! {
            biased;
            () = op.cancel.cancelled() => Err(Failure::Refused("a newer order came".into())),
            result = self.try_bring_up(&op) => result,
        };
        let mut state = self.state();
        let failure = match result {
            Ok(image) => {
                if let Some(order) = &op.start {
                    self.started(&mut state, &order.workload);
                }
                if let Some(assignment) = &state.desired.assignment {
                    let epoch = assignment.epoch;
                    state.golden = image.filter(|image| !is_own(image, &assignment.actor));
                    state.sandbox = Observed::Known(Sandbox::Running { epoch });
                }
                return;
            }
            Err(failure) => failure,
        };
        tracing::warn!(
            slot = self.place.name(),
            ?failure,
            "an assignment did not come up"
        );
        op.fail(failure);
        state.sandbox = Observed::Unknown;
        if let Some(assignment) = &mut state.desired.assignment {
            assignment.phase = Phase::Ending;
        }
    }

    /// Returns what it was restored from.
    async fn try_bring_up(&self, op: &Op) -> Result<Option<Pin>, Failure> {
        let Prepared {
            spec,
            image,
            executor,
        } = self.prepare(op).await?;
        let mut client = executor.client.clone();
        let restoring = image.is_some();
        let call = async {
            match &image {
                None => {
                    let request = RunWorkloadRequest { spec: Some(spec) };
                    let answer = client.run_workload(request).await;
                    answer.map(|a| a.into_inner().steps)
                }
                Some((image, _)) => {
                    let request = RestoreWorkloadRequest {
                        spec: Some(spec),
                        image_dir: image.display().to_string(),
                    };
                    let answer = client.restore_workload(request).await;
                    answer.map(|a| a.into_inner().steps)
                }
            }
        };
        let answer = timeout(START_LIMIT, call).await;
        let steps: Vec<StepTiming> = answer
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("it does not come up in time")))
            .map_err(|status| failure(&status, restoring))?;
        op.call("executor", steps);
        Ok(image.map(|(_, pin)| pin))
    }

    async fn prepare(&self, op: &Op) -> Result<Prepared, Failure> {
        let gone = || Failure::Failed(Reason::SandboxLost, "the slot is gone".into());
        let order = op.start.as_ref().ok_or_else(gone)?;
        let workload = &order.workload;
        let runtime = self
            .node
            .runtimes
            .resolve(workload.runtime.as_ref())
            .await?;
        op.lap("runtime");
        let mut containers = self.node.images.bundles(workload).await?;
        op.lap("image");
        let image = match &order.snapshot {
            None => None,
            Some(target) => Some(self.node.snapshots.copy(target, &runtime).await?),
        };
        if image.is_some() {
            op.lap("snapshot");
        }
        let fits = ahead::fits(&runtime, &containers, workload.limits);
        let (assignment, executor, created) = {
            let mut state = self.state();
            let created = image.is_some() && state.take_ahead(&fits);
            let port = self.pick_port(&mut state.ports);
            let executor = state.executor.clone().ok_or_else(gone)?;
            let assignment = state.desired.assignment.as_mut().ok_or_else(gone)?;
            assignment.host_port = port;
            assignment.runtime_build.clone_from(&runtime.build);
            assignment.images = images_of(workload);
            let assignment = assignment.clone();
            self.persist(&state).map_err(|e| boot_failed(&e))?;
            (assignment, executor, created)
        };
        let names: Vec<&str> = containers.iter().map(|c| &*c.name).collect();
        let log_dir = self
            .make_log_dir(&assignment.actor, &names)
            .map_err(|e| boot_failed(&e))?;
        let state_dir = self.sandbox_dir(&assignment.generation);
        make_dir(&state_dir).map_err(|e| boot_failed(&e))?;
        if created {
            let from = self.logs_ahead(&assignment.generation);
            let taken = logs::take_over(&from, &log_dir).map_err(io("move", &from));
            taken.map_err(|e| boot_failed(&e))?;
        }
        let (runtime_path, state_dir) = self.lend_parts(&mut containers, &runtime, &state_dir)?;
        let image = match image {
            None => None,
            Some(pin) => Some((self.lend("snapshot", pin.path(), Access::Read)?, pin)),
        };
        let log_dir = self.lend("logs", &log_dir, Access::Write)?;
        op.lap("prepare");
        let spec = SandboxSpec {
            actor: Some(assignment.actor.into()),
            epoch: assignment.epoch.0,
            generation: assignment.generation,
            containers,
            runtime: workload.runtime.clone(),
            runtime_path: runtime_path.display().to_string(),
            app_port: workload.port,
            host_port: assignment.host_port.into(),
            state_dir: state_dir.display().to_string(),
            log_dir: log_dir.display().to_string(),
            limits: workload.limits,
            dns: workload.dns.clone(),
        };
        Ok(Prepared {
            spec,
            image,
            executor,
        })
    }

    /// It runs: says so.
    pub(super) fn confirm(&self) -> Result<(), Error> {
        let mut state = self.state();
        self.set_phase(&mut state, Phase::Serving)?;
        let port = state.desired.assignment.as_ref().map(|a| a.host_port);
        let address = match (&state.executor, port) {
            (Some(executor), Some(port)) => address(executor, port),
            _ => String::new(),
        };
        if let Some(op) = state.op_of(Kind::Start) {
            state.op = None;
            op.lap("confirm");
            let steps = op.steps();
            op.finish(Ok(Answer::Started { address, steps }));
        }
        Ok(())
    }

    /// Where a sandbox writes.
    pub(super) fn sandbox_dir(&self, generation: &str) -> PathBuf {
        self.node.layout.sandboxes().join(generation)
    }

    /// A port that this slot has not used lately.
    fn pick_port(&self, used: &mut std::collections::VecDeque<u16>) -> u16 {
        let mut rng = rand::rng();
        // Far fewer are remembered than there are.
        let port = loop {
            let port = rng.random_range(PORTS);
            if !used.contains(&port) {
                break port;
            }
        };
        if used.len() == MAX_PORTS {
            used.pop_front();
        }
        used.push_back(port);
        port
    }

    /// The actor's logs. Those of another one that had its name are removed.
    fn make_log_dir(&self, actor: &Identity, containers: &[&str]) -> Result<PathBuf, Error> {
        let dir = self.node.layout.actor(actor);
        let (uid, logs) = (dir.join("uid"), dir.join("logs"));
        let known = std::fs::read_to_string(&uid).unwrap_or_default();
        if known != actor.uid {
            files::remove_dir(&dir)?;
        }
        make_dir(&logs)?;
        if known != actor.uid {
            std::fs::write(&uid, &actor.uid).map_err(io("write", &uid))?;
        }
        let list = dir.join(CONTAINERS);
        let lines = super::super::logs::containers(&logs, containers);
        let written = lines.and_then(|lines| std::fs::write(&list, lines));
        written.map_err(io("write", &list))?;
        Ok(logs)
    }
}

pub(super) fn images_of(workload: &Workload) -> Vec<String> {
    let containers = workload.containers.iter();
    containers.map(|c| c.image.clone()).collect()
}

pub(super) fn make_dir(dir: &Path) -> Result<(), Error> {
    let mut make = std::fs::DirBuilder::new();
    let made = make.recursive(true).mode(0o700).create(dir);
    made.map_err(io("create", dir))
}

pub(super) fn boot_failed(error: &Error) -> Failure {
    Failure::because(Reason::BootFailed, error)
}

/// Whether a snapshot is the actor's own.
fn is_own(image: &Pin, actor: &Identity) -> bool {
    let id = image.id().parse::<SnapshotId>();
    id.is_ok_and(|id| id.actor.to_string() == actor.uid)
}

/// What an executor's refusal means for the actor.
fn failure(status: &Status, restoring: bool) -> Failure {
    let reason = match (status.code(), restoring) {
        (Code::Cancelled, _) => return Failure::Refused(status.message().to_owned()),
        (Code::Unavailable | Code::Unknown, _) => Reason::SandboxLost,
        (Code::DataLoss, true) => Reason::SnapshotUnreadable,
        (Code::ResourceExhausted, _) => Reason::OOMKilled,
        (Code::Unimplemented, _) => Reason::LimitsUnavailable,
        (_, true) => Reason::RestoreFailed,
        (_, false) => Reason::BootFailed,
    };
    Failure::Failed(reason, status.message().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_executor_refuses_is_told_by_its_reason() {
        for (code, restoring, reason) in [
            (Code::Unavailable, true, Reason::SandboxLost),
            (Code::DataLoss, true, Reason::SnapshotUnreadable),
            (Code::DataLoss, false, Reason::BootFailed),
            (Code::ResourceExhausted, true, Reason::OOMKilled),
            (Code::ResourceExhausted, false, Reason::OOMKilled),
            (Code::Unimplemented, true, Reason::LimitsUnavailable),
            (Code::Aborted, true, Reason::RestoreFailed),
            (Code::Aborted, false, Reason::BootFailed),
        ] {
            let failed = failure(&Status::new(code, "why"), restoring);
            assert!(
                matches!(&failed, Failure::Failed(r, why) if *r == reason && why == "why"),
                "{code}: {failed:?}"
            );
        }
        let cancelled = failure(&Status::cancelled("stopped"), true);
        assert!(matches!(cancelled, Failure::Refused(_)), "{cancelled:?}");
    }
}
