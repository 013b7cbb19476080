//! Steps that a node does: start, observe, stop.

use super::{
    ASK_AGAIN, MOST_ATTEMPTS, Operation, RESTORE_LIMIT, RUN_LIMIT, SHORT_LIMIT, busy_limit,
};
use crate::api::names::SnapshotId;
use crate::api::record::{Assignment, Phase};
use crate::api::{ActorTemplate, Epoch, Reason};
use crate::engine::DriveError;
use crate::engine::workload::{With, identity, workload};
use crate::lifecycle::Observed;
use crate::lifecycle::actor::Sandbox;
use crate::lifecycle::placement::{self, Source};
use crate::lifecycle::runtimes;
use crate::proto::atenode as wire;
use crate::rpc::nodes::NodeError;
use crate::store::StoreError;
use tonic::Status;

impl Operation {
    pub(super) async fn fence(&self) -> Result<wire::Fence, StoreError> {
        Ok(wire::Fence {
            epoch: self.epoch().0,
            incarnation: self.engine.incarnation().await?,
            not_after_ms: (self.now() + self.engine.options.operation_lease).0,
        })
    }

    pub(super) fn prefix(&self) -> String {
        self.engine.snapshots_of(&self.record)
    }

    pub(super) fn snapshot_ref(&self, id: SnapshotId, local: bool) -> wire::SnapshotRef {
        wire::SnapshotRef {
            id: id.to_string(),
            uri: self.prefix(),
            local,
        }
    }

    pub(super) async fn address_of(&self, node: &str) -> Result<String, NodeError> {
        match self
            .engine
            .directory
            .address(&*self.engine.store, node)
            .await
        {
            Ok(Some(address)) => Ok(address),
            Ok(None) => Err(NodeError::Unreachable(Box::new(Status::unavailable(
                format!("node {node} is not known"),
            )))),
            Err(e) => Err(NodeError::Unreachable(Box::new(Status::unavailable(
                e.to_string(),
            )))),
        }
    }

    pub(super) async fn observe(&mut self) -> Result<(), DriveError> {
        let assignment = self.held()?;
        let request = wire::ObserveRequest {
            target_ateom_uid: assignment.uid.clone(),
        };
        let answer = match self.address_of(&assignment.node).await {
            Ok(address) => {
                self.engine
                    .nodes
                    .observe(&address, request, SHORT_LIMIT)
                    .await
            }
            Err(e) => Err(e),
        };
        match answer {
            Ok(response) => {
                self.progress.sandbox =
                    sandbox_of(&response, &assignment.uid, &identity(&self.record));
                let exited = self.progress.sandbox == Observed::Known(Sandbox::Exited);
                // A wake tries again.
                if exited && self.record.header.phase != Phase::Resuming {
                    let slot = response.slots.iter().find(|s| s.uid == assignment.uid);
                    let exit = slot.and_then(|s| s.exit.clone()).unwrap_or_default();
                    self.fail(Reason::of_end(exit.out_of_memory), exit.message);
                }
                if let Observed::Known(Sandbox::Running { address, .. }) = &self.progress.sandbox
                    && let Some(a) = &mut self.record.status.assignment
                {
                    a.address = address.clone();
                }
            }
            // The slot is gone, and what it ran with it.
            Err(NodeError::NotFound { .. }) => self.progress.sandbox = Observed::Absent,
            Err(e) => {
                tracing::debug!(actor = %self.record.key, node = assignment.node, error = %e, "node cannot be asked");
                self.node_silent(&assignment.node).await?;
            }
        }
        Ok(())
    }

    /// A node does not answer: lost once its lease has lapsed, until then it is asked again.
    pub(super) async fn node_silent(&mut self, node: &str) -> Result<(), DriveError> {
        self.progress.sandbox = Observed::Unknown;
        if self
            .engine
            .directory
            .is_lost(&*self.engine.store, node)
            .await?
        {
            self.progress.node_lost = true;
        } else {
            tokio::time::sleep(ASK_AGAIN * 5).await;
        }
        Ok(())
    }

    pub(super) async fn await_node(&mut self) -> Result<(), DriveError> {
        let source = self
            .template
            .as_ref()
            .map(|t| placement::source(&self.record, t, None));
        let boots = matches!(source, Some(Ok(Source::Boot)));
        if self.started.elapsed() > busy_limit(self.record.header.phase, boots) {
            self.fail(
                Reason::DeadlineExceeded,
                "the slot stayed busy for too long",
            );
            return self.stop().await;
        }
        tokio::time::sleep(ASK_AGAIN).await;
        self.progress.sandbox = Observed::Unknown;
        Ok(())
    }

    pub(super) async fn start(&mut self) -> Result<(), DriveError> {
        let assignment = self.held()?;
        let template = self.template.clone().ok_or(DriveError::InProgress)?;
        let address = self.address_of(&assignment.node).await;
        let on = self.engine.directory.runtime(&assignment.node);
        let wanted = runtimes::wanted(&self.record, &template);
        if wanted.is_some_and(|wanted| !runtimes::fits(on, &wanted)) {
            tracing::info!(worker = %assignment.worker, runtime = ?on, "claimed a worker of another runtime; trying another");
            self.misled = true;
            return self.release().await;
        }
        let order = match placement::source(&self.record, &template, on) {
            Ok(source) => {
                let with = match source {
                    Source::Boot => With::Everything,
                    Source::Local { .. } | Source::Durable { .. } | Source::Golden { .. } => {
                        With::Nothing
                    }
                };
                let made = self.workload(&template, with).await;
                made.map(|workload| (source, workload))
            }
            Err(why) => Err(why),
        };
        let (source, workload) = match order {
            Ok(order) => order,
            Err((reason, message)) => {
                self.fail(reason, message);
                return Ok(());
            }
        };
        let answer = match address {
            Ok(address) => {
                let left_out = workload.pull_secrets_left_out;
                let fence = self.fence().await?;
                let first = self
                    .order_start(&address, &assignment, source.clone(), workload, fence)
                    .await;
                match first {
                    Err(NodeError::Failed {
                        reason: Reason::ImageUnavailable,
                        ..
                    }) if left_out => {
                        self.start_pulling(&address, &assignment, source, &template)
                            .await?
                    }
                    answer => answer,
                }
            }
            Err(e) => Err(e),
        };
        match answer {
            Ok((address, steps)) => {
                self.timings.extend(steps);
                self.progress.sandbox = Observed::Known(Sandbox::Running {
                    epoch: self.epoch(),
                    address: address.clone(),
                });
                if let Some(a) = &mut self.record.status.assignment {
                    a.address = address;
                }
            }
            Err(NodeError::NotFound { message }) => self.worker_gone(&message).await?,
            Err(e) => self.failed_by_node(e),
        }
        Ok(())
    }

    /// As the first order, for a node that does not have the images.
    async fn start_pulling(
        &self,
        address: &str,
        assignment: &Assignment,
        source: Source,
        template: &ActorTemplate,
    ) -> Result<Result<(String, Vec<wire::StepTiming>), NodeError>, DriveError> {
        let workload = match self.workload(template, With::PullSecrets).await {
            Ok(workload) => workload,
            Err((reason, message)) => return Ok(Err(NodeError::Failed { reason, message })),
        };
        let fence = self.fence().await?;
        Ok(self
            .order_start(address, assignment, source, workload, fence)
            .await)
    }

    async fn workload(
        &self,
        template: &ActorTemplate,
        with: With,
    ) -> Result<wire::Workload, (Reason, String)> {
        workload(template, arch(), &*self.engine.secrets, with).await
    }

    pub(super) async fn order_start(
        &self,
        address: &str,
        assignment: &Assignment,
        source: Source,
        workload: wire::Workload,
        fence: wire::Fence,
    ) -> Result<(String, Vec<wire::StepTiming>), NodeError> {
        let (target_ateom_uid, actor) = (assignment.uid.clone(), Some(identity(&self.record)));
        let (fence, workload) = (Some(fence), Some(workload));
        let snapshot = match source {
            Source::Boot => {
                let request = wire::RunRequest {
                    target_ateom_uid,
                    actor,
                    fence,
                    workload,
                };
                let up = self.engine.nodes.run(address, request, RUN_LIMIT).await?;
                return Ok((up.address, up.steps));
            }
            Source::Local { id, .. } => self.snapshot_ref(id, true),
            Source::Durable { id } => self.snapshot_ref(id, false),
            Source::Golden { id, uri } => wire::SnapshotRef {
                id: id.to_string(),
                uri,
                local: false,
            },
        };
        let request = wire::RestoreRequest {
            target_ateom_uid,
            actor,
            fence,
            workload,
            snapshot: Some(snapshot),
        };
        let up = self
            .engine
            .nodes
            .restore(address, request, RESTORE_LIMIT)
            .await?;
        Ok((up.address, up.steps))
    }

    /// Takes in why a node did not do what it was told. What its slot runs now has to be asked; while it is not known
    /// whether the order was carried out, it is given again.
    pub(super) fn failed_by_node(&mut self, error: NodeError) {
        self.progress.sandbox = Observed::Unknown;
        self.attempts += 1;
        if error.outcome_unknown() && self.attempts < MOST_ATTEMPTS {
            tracing::warn!(actor = %self.record.key, %error, "a node's answer is missing");
            return;
        }
        if matches!(error, NodeError::Refused { .. }) {
            self.engine.forget_incarnation();
        }
        let (reason, message) = reason_of(error);
        tracing::warn!(actor = %self.record.key, %reason, message, "node failed a step");
        self.fail(reason, message);
    }

    pub(super) async fn stop(&mut self) -> Result<(), DriveError> {
        let assignment = self.held()?;
        let request = wire::StopRequest {
            target_ateom_uid: assignment.uid.clone(),
            actor: Some(identity(&self.record)),
            fence: Some(self.fence().await?),
        };
        let answer = match self.address_of(&assignment.node).await {
            Ok(address) => self.engine.nodes.stop(&address, request, SHORT_LIMIT).await,
            Err(e) => Err(e),
        };
        match answer {
            Ok(_) | Err(NodeError::NotFound { .. }) => self.progress.sandbox = Observed::Absent,
            Err(e) => {
                tracing::warn!(actor = %self.record.key, error = %e, "stop failed");
                self.engine.forget_incarnation();
                self.node_silent(&assignment.node).await?;
            }
        }
        Ok(())
    }
}

/// Why a node did not do what it was told, for the record.
pub(super) fn reason_of(error: NodeError) -> (Reason, String) {
    match error {
        NodeError::Failed { reason, message } => (reason, message),
        NodeError::Refused { message } | NodeError::NotFound { message } => {
            (Reason::SandboxLost, message)
        }
        NodeError::TimedOut => (
            Reason::DeadlineExceeded,
            "the node did not answer in time".to_owned(),
        ),
        e @ (NodeError::Unreachable(_) | NodeError::Unexpected(_) | NodeError::Setup(_)) => {
            (Reason::NodeUnreachable, e.to_string())
        }
    }
}

/// What a slot runs for an actor, from what its node says.
pub(in crate::engine) fn sandbox_of(
    response: &wire::ObserveResponse,
    uid: &str,
    actor: &wire::ActorIdentity,
) -> Observed<Sandbox> {
    use wire::slot::Phase as P;
    let Some(slot) = response.slots.iter().find(|s| s.uid == uid) else {
        return Observed::Absent;
    };
    if slot.actor.as_ref().is_none_or(|a| a.uid != actor.uid) {
        return Observed::Absent;
    }
    let epoch = Epoch(slot.epoch);
    match slot.phase() {
        P::Free => Observed::Absent,
        P::Running => Observed::Known(Sandbox::Running {
            epoch,
            address: slot.address.clone(),
        }),
        P::Exited => Observed::Known(Sandbox::Exited),
        P::Busy | P::Dirty => Observed::Known(Sandbox::Busy { epoch }),
        P::Unspecified => Observed::Unknown,
    }
}

/// The architecture of the machines that run sandboxes, in Kubernetes' words.
fn arch() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    }
}
