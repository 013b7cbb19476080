//! Ending: of a sandbox, of an assignment, of an executor, of the slot.

use super::super::error::{Error, io};
use super::super::files::{self, Phase};
use super::super::outcome::{Answer, Failure, Outcome};
use super::super::provider::ExecutorRecord;
use super::op::{Kind, Op};
use super::{LOG, Slot};
use crate::api::Reason;
use crate::lifecycle::Observed;
use crate::lifecycle::slot::{Lease, Sandbox};
use crate::proto::atenode::StopWorkloadRequest;
use crate::sandbox::logs;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long an executor may take to end a sandbox; then it is killed itself.
const END_LIMIT: Duration = Duration::from_secs(60);
/// What an executor ends whatever runs.
const ANY_EPOCH: u64 = u64::MAX;

impl Slot {
    /// Has the executor end what it runs. When it says that this is done, the slot is proved clean.
    pub(super) async fn end_sandbox(&self) {
        let Some(executor) = self.state().executor.clone() else {
            return;
        };
        let mut client = executor.client;
        let request = StopWorkloadRequest { epoch: ANY_EPOCH };
        let answer = timeout(END_LIMIT, client.stop_workload(request)).await;
        let sandbox = match answer {
            Ok(Ok(answer)) => {
                if let Some(op) = self.state().op_of(Kind::End) {
                    op.call("executor", answer.into_inner().steps);
                }
                Observed::Known(Sandbox::Clean)
            }
            Ok(Err(status)) => {
                tracing::warn!(slot = self.place.name(), %status, "a sandbox could not be ended");
                self.ask().await.map_or(Observed::Unknown, Observed::Known)
            }
            Err(_) => Observed::Known(Sandbox::Dirty),
        };
        let mut state = self.state();
        if state.executor.is_some() {
            // What still runs after it was ended will not end for asking again.
            state.sandbox = match sandbox {
                Observed::Known(Sandbox::Running { .. } | Sandbox::Exited) => {
                    Observed::Known(Sandbox::Dirty)
                }
                sandbox => sandbox,
            };
        }
    }

    /// Removes what an assignment left, frees the slot and tells those who wait.
    pub(super) async fn forget(&self) -> Result<(), Error> {
        let op = self.state().op.clone();
        self.free().await?;
        if let Some(op) = op {
            op.lap("clean");
            op.finish(forgotten(&op));
        }
        Ok(())
    }

    /// Takes the assignment off a slot whose executor is clean, or gone.
    pub(super) async fn free(&self) -> Result<(), Error> {
        self.node.provider.take_back(&self.place)?;
        if let Some(assignment) = self.assignment() {
            let dir = self.sandbox_dir(&assignment.generation);
            remove_in_background(dir).await?;
            // An image that was to be kept, and is not wanted any more.
            for dir in self.node.snapshots.drafts(&assignment.actor)? {
                remove_in_background(dir).await?;
            }
        }
        self.drop_ahead().await?;
        let mut state = self.state();
        // What did not come up may be ordered again with the same epoch; anything else has ended for good.
        let retried = state
            .op
            .as_ref()
            .is_some_and(|op| op.kind() == Kind::Start && op.failure().is_some());
        if retried {
            state.desired.assignment = None;
        } else {
            state.drop_assignment(&self.node);
        }
        state.op = None;
        self.persist(&state)
    }

    /// Removes what is left of a sandbox that was created ahead. The executor has none.
    pub(super) async fn drop_ahead(&self) -> Result<(), Error> {
        let ahead = self.state().desired.ahead.clone();
        if let Some(ahead) = &ahead {
            remove_in_background(self.sandbox_dir(&ahead.generation)).await?;
        }
        let mut state = self.state();
        state.tried = false;
        match state.desired.ahead.take() {
            Some(_) => self.persist(&state),
            None => Ok(()),
        }
    }

    /// Ends the executor, proves it gone, and starts another one. An image that is complete is still delivered.
    pub(super) async fn rebuild(&self) -> Result<(), Error> {
        self.end_executor().await?;
        if !self.is_saved() {
            let op = self.state().op.clone();
            self.free().await?;
            if let Some(op) = op {
                op.finish(forgotten(&op));
            }
        }
        match (self.is_retiring(), self.is_saved()) {
            (false, _) => self.build().await,
            // It ended as soon as it had nothing to do any more.
            (true, true) => self.deliver_last().await,
            (true, false) => Ok(()),
        }
    }

    /// Until it is proved gone it is reported, as one that is not clean.
    async fn end_executor(&self) -> Result<(), Error> {
        std::fs::create_dir_all(&self.dir).map_err(io("create", &self.dir))?;
        let record = {
            let mut state = self.state();
            if state.executor.is_some() && !state.retiring {
                state.sandbox = Observed::Known(Sandbox::Dirty);
            }
            state.record.clone()
        };
        if let Some(record) = record {
            self.node.provider.end(&self.place, &record).await?;
            self.record(None)?;
        }
        let mut state = self.state();
        state.executor = None;
        state.sandbox = Observed::Absent;
        Ok(())
    }

    async fn build(&self) -> Result<(), Error> {
        let log = logs::path(&self.dir, LOG);
        let earlier = self.state().executors;
        let uid = self.node.provider.uid(&self.place, earlier);
        // Written before it starts, so that it is found when we end in between.
        self.record(Some(ExecutorRecord {
            uid: uid.clone(),
            pid: 0,
            start_time: 0,
        }))?;
        let Some(started) = self
            .gone
            .run_until_cancelled(self.node.provider.start(&self.place, &uid, &log))
            .await
        else {
            return Ok(());
        };
        let executor = started?;
        self.state().executors = earlier + 1;
        self.record(Some(executor.record.clone()))?;
        tracing::info!(slot = self.place.name(), uid, ip = %executor.ip, "slot is up");
        {
            let mut state = self.state();
            state.executor = Some(executor);
            state.sandbox = Observed::Unknown;
        }
        self.look().await;
        Ok(())
    }

    /// Whether the image that is to be saved is complete on this node.
    pub(super) fn is_saved(&self) -> bool {
        self.assignment().is_some_and(|a| match &a.phase {
            Phase::Saving(target) => {
                let snapshots = &self.node.snapshots;
                snapshots.draft(&target.id).is_dir() || snapshots.saved(&target.id).is_some()
            }
            Phase::Starting | Phase::Serving | Phase::Ending => false,
        })
    }

    /// Removes the slot, with whatever it runs. An image that is complete is delivered first.
    pub(super) async fn leave(&self) -> Result<(), Error> {
        if self.is_saved() {
            self.end_executor().await?;
            self.deliver_last().await?;
        }
        self.demolish().await
    }

    /// Delivers an image whose executor has ended, when the control plane stands for it.
    async fn deliver_last(&self) -> Result<(), Error> {
        if self.node.lease.state() == Lease::Lapsed {
            let mut lease = self.node.lease.subscribe();
            // Fails only when the node is gone.
            let _ = lease.wait_for(|lease| *lease != Lease::Lapsed).await;
        }
        match self.is_saved() {
            true => self.deliver().await,
            false => Ok(()),
        }
    }

    /// Ends the executor and removes the slot, with whatever it runs.
    pub async fn demolish(&self) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        self.state().retiring = true;
        self.end_executor().await?;
        let op = self.state().op.clone();
        self.free().await?;
        if let Some(op) = op {
            op.finish(forgotten(&op));
        }
        self.node.provider.remove(&self.place)?;
        files::remove_dir(&self.dir)?;
        self.node.changed.send_replace(());
        Ok(())
    }
}

/// What an order comes to when nothing of its assignment is left.
fn forgotten(op: &Arc<Op>) -> Outcome {
    let lost = |message: &str| Failure::Failed(Reason::SandboxLost, message.to_owned());
    match op.kind() {
        Kind::End => Ok(Answer::Ended { steps: op.steps() }),
        Kind::Start => Err(op
            .failure()
            .unwrap_or_else(|| lost("the slot's executor ended while the sandbox came up"))),
        Kind::Save => Err(op
            .failure()
            .unwrap_or_else(|| lost("the sandbox was gone before it was saved"))),
    }
}

/// A sandbox's writable layer may be large.
async fn remove_in_background(dir: std::path::PathBuf) -> Result<(), Error> {
    let path = dir.clone();
    let removed = tokio::task::spawn_blocking(move || files::remove_dir(&dir)).await;
    removed.unwrap_or_else(|e| Err(io("remove", &path)(std::io::Error::other(e))))
}
