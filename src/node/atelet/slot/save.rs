//! Saving a sandbox: the image, which frees the executor; then it is this node's, which frees the slot. Publishing it follows,
//! without the slot.

use super::super::error::Error;
use super::super::files::{self, Assignment, Phase, Target};
use super::super::outcome::{Answer, Failure};
use super::super::provider::Access;
use super::super::snapshots::IMAGE;
use super::Slot;
use super::op::{Kind, Op};
use super::start::make_dir;
use crate::api::Reason;
use crate::lifecycle::Observed;
use crate::lifecycle::slot::Sandbox;
use crate::proto::atenode::CheckpointWorkloadRequest;
use crate::snapshot::SnapshotError;
use crate::telemetry::chain;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::timeout;
use tonic::Status;

/// How long an executor may take to save a sandbox.
const SAVE_LIMIT: Duration = Duration::from_secs(300);

impl Slot {
    /// Has the executor write the image. What became of it is seen in the spool; the slot is asked for unless it was just proved clean.
    pub(super) async fn checkpoint(&self) {
        let Some((assignment, target)) = self.saving() else {
            return;
        };
        let (op, executor) = {
            let state = self.state();
            (state.op_of(Kind::Save), state.executor.clone())
        };
        let Some(executor) = executor else { return };
        if let Some(op) = &op {
            op.lap("queue");
        }
        let draft = self.node.snapshots.draft(&target.id);
        let answer = match self.lend_draft(&target) {
            Ok(image) => {
                let request = CheckpointWorkloadRequest {
                    epoch: assignment.epoch.0,
                    image_dir: image.display().to_string(),
                };
                let mut client = executor.client;
                let answer = timeout(SAVE_LIMIT, client.checkpoint_workload(request)).await;
                answer.unwrap_or_else(|_| {
                    Err(Status::deadline_exceeded(
                        "the checkpoint does not end in time",
                    ))
                })
            }
            Err(error) => Err(Status::internal(chain(&error))),
        };
        let mut clean = false;
        match answer {
            Ok(answer) => {
                let answer = answer.into_inner();
                clean = answer.clean;
                if let Some(op) = &op {
                    op.call("executor", answer.steps);
                }
            }
            Err(status) => {
                tracing::warn!(slot = self.place.name(), %status, "a checkpoint failed");
                if let Some(op) = &op {
                    let message = status.message().to_owned();
                    op.fail(Failure::Failed(Reason::CheckpointFailed, message));
                }
            }
        }
        if clean {
            self.learn(Observed::Known(Sandbox::Clean));
        } else {
            self.look().await;
        }
        if let Some(op) = &op {
            op.lap("observe");
        }
        self.go_on_unsaved(&draft);
    }

    /// Where the executor writes the image.
    fn lend_draft(&self, target: &Target) -> Result<PathBuf, Error> {
        let dir = self.node.snapshots.draft_dir(&target.id);
        make_dir(&dir)?;
        let provider = &self.node.provider;
        let lent = provider.lend(&self.place, "save", &dir, Access::Write)?;
        Ok(lent.join(IMAGE))
    }

    /// A sandbox that could not be saved goes on.
    fn go_on_unsaved(&self, draft: &std::path::Path) {
        let mut state = self.state();
        let runs = matches!(state.sandbox, Observed::Known(Sandbox::Running { .. }));
        let saving = state
            .desired
            .assignment
            .as_ref()
            .is_some_and(|a| matches!(a.phase, Phase::Saving(_)));
        let failure = state.op.as_ref().and_then(|op| op.failure());
        if !runs || !saving || draft.is_dir() {
            return;
        }
        if let Err(error) = self.set_phase(&mut state, Phase::Serving) {
            tracing::warn!(slot = self.place.name(), %error, "cannot write down that a sandbox goes on");
        }
        if let Some(op) = state.op_of(Kind::Save) {
            state.op = None;
            op.finish(Err(failure.unwrap_or_else(|| {
                Failure::Failed(Reason::CheckpointFailed, "the sandbox goes on".into())
            })));
        }
    }

    /// The sandbox ended by itself before it could be saved.
    pub(super) fn give_up_saving(&self) -> Result<(), Error> {
        let mut state = self.state();
        self.set_phase(&mut state, Phase::Serving)?;
        if let Some(op) = state.op_of(Kind::Save) {
            state.op = None;
            let exit = state.exit.clone().unwrap_or_default();
            let reason = Reason::of_end(exit.out_of_memory);
            let message = format!("before it could be saved {}", exit.message);
            op.finish(Err(Failure::Failed(reason, message)));
        }
        Ok(())
    }

    /// Makes the image this node's, and frees the slot. The executor is clean already. While there is no room to note it the image
    /// stays where it is, and this is tried again.
    pub(super) async fn deliver(&self) -> Result<(), Error> {
        let Some((assignment, target)) = self.saving() else {
            return Ok(());
        };
        let op = self.state().op_of(Kind::Save);
        let Assignment {
            actor,
            runtime_build: build,
            ..
        } = &assignment;
        let snapshots = &self.node.snapshots;
        let kept = match snapshots.keep(&target, actor, build).await {
            Ok(bytes) => Ok(bytes),
            Err(error @ SnapshotError::BadImage { .. }) => {
                Err(Failure::because(Reason::CheckpointFailed, &error))
            }
            Err(error) => return Err(error.into()),
        };
        if let Some(op) = &op {
            op.lap("keep");
        }
        self.publish_first(&target, op.as_deref()).await;
        self.node.provider.take_back(&self.place)?;
        files::remove_dir(&snapshots.draft_dir(&target.id))?;
        self.free().await?;
        if target.local && kept.is_ok() {
            let (node, id) = (self.node.clone(), target.id);
            tokio::spawn(async move { node.snapshots.hash(&id).await });
        }
        if let Some(op) = op {
            op.lap("clean");
            let steps = op.steps();
            let runtime = build.clone();
            op.finish(kept.map(|bytes| Answer::Saved {
                bytes,
                runtime,
                steps,
            }));
        }
        Ok(())
    }

    /// What is to be published is so before the slot is free where the spool is full, and where the slot leaves: the node may be about to
    /// leave as well. Why it could not be is told to whoever orders it.
    async fn publish_first(&self, target: &Target, op: Option<&Op>) {
        let snapshots = &self.node.snapshots;
        if target.local || !snapshots.is_full() && !self.is_retiring() {
            return;
        }
        let published = match op {
            None => snapshots.publish(target).await,
            Some(op) => tokio::select! {
                biased;
                () = op.cancel.cancelled() => return,
                published = snapshots.publish(target) => published,
            },
        };
        if let Err(failure) = published {
            tracing::warn!(
                id = target.id,
                ?failure,
                "not published before the slot is free"
            );
        }
        if let Some(op) = op {
            op.lap("publish");
        }
    }

    fn saving(&self) -> Option<(Assignment, Target)> {
        let assignment = self.assignment()?;
        let Phase::Saving(target) = &assignment.phase else {
            return None;
        };
        let target = target.clone();
        Some((assignment, target))
    }
}
