//! How each step is carried out: an operation with its record and what it found out so far. A file per kind of step;
//! here are the steps about the record itself.

mod node;
mod snapshot;
mod worker;

pub(in crate::engine) use node::sandbox_of;

use super::{DriveError, Engine, metrics};
use crate::api::names::ResourceVersion;
use crate::api::record::{ActorRecord, Assignment, Phase, SnapshotRecord, StepRecord, Work};
use crate::api::{ActorTemplate, Epoch, Reason, Timestamp};
use crate::lifecycle::Observed;
use crate::lifecycle::actor::{Outcome, Progress, Step, conclude, spooled};
use crate::proto::atenode::StepTiming;
use crate::store::Durability;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A boot may have to fetch and unpack images.
const RUN_LIMIT: Duration = Duration::from_secs(600);
/// A restore may have to fetch a snapshot.
const RESTORE_LIMIT: Duration = Duration::from_secs(180);
/// A checkpoint writes a snapshot on its node; a publication moves it from there.
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(180);
/// Ending a sandbox, asking what runs, looking at a snapshot.
const SHORT_LIMIT: Duration = Duration::from_secs(20);
/// How long to wait before a node is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// How long templates and pools may take to be known after a start.
const CATALOG_LIMIT: Duration = Duration::from_secs(15);
/// How long a wake waits for workers that are on their way: below the minute that callers wait.
const WORKER_LIMIT: Duration = Duration::from_secs(10);
/// How often an order is given whose outcome is not known.
const MOST_ATTEMPTS: u32 = 5;
/// The epoch of an actor's first sleep when nothing went wrong: there is nothing older to delete.
const FIRST_SLEEP: Epoch = Epoch(2);

/// A slot that stays busy for longer is stopped: it may take as long as the order that keeps it busy may, and a short one.
fn busy_limit(phase: Phase, boots: bool) -> Duration {
    let order = match phase {
        Phase::Resuming if boots => RUN_LIMIT,
        Phase::Resuming => RESTORE_LIMIT,
        Phase::Suspending | Phase::Pausing | Phase::Suspended | Phase::Running | Phase::Paused => {
            CHECKPOINT_LIMIT
        }
    };
    order + SHORT_LIMIT
}

/// An operation that this process owns.
pub(super) struct Operation {
    pub(super) engine: Arc<Engine>,
    pub(super) record: ActorRecord,
    pub(super) progress: Progress,
    /// The store's clock when it began.
    pub(super) started_at: Timestamp,
    started: Instant,
    template: Option<Arc<ActorTemplate>>,
    /// Until when a worker that is on its way is waited for, since none was free.
    worker_until: Option<Instant>,
    /// The workers were last listed at this version.
    seen_workers: Option<ResourceVersion>,
    /// A free worker was seen in complete pools after the claim had found none.
    overtaken: bool,
    /// A claimed worker had another runtime than was known: every node counts now, whatever its lease.
    misled: bool,
    /// Orders whose outcome was not known.
    attempts: u32,
    /// Where local snapshots of the actor may lie that are superseded.
    local_nodes: Vec<String>,
    /// The node that it ran on when the operation began.
    ran_on: Option<String>,
    /// What took how long, in order.
    pub(super) timings: Vec<StepTiming>,
    /// The same for the record: coarse, and each kind of work once.
    spent: Vec<StepRecord>,
    /// Where the claimed worker is; outlives the record's assignment until the worker is released.
    held: Option<Assignment>,
}

impl Operation {
    pub(super) fn new(
        engine: Arc<Engine>,
        record: ActorRecord,
        progress: Progress,
        now: Timestamp,
    ) -> Self {
        let template = engine.catalog.template(&record.spec.template);
        let held = record.status.assignment.clone();
        let local_nodes = record.status.local.iter().map(|l| l.node.clone()).collect();
        Operation {
            engine,
            record,
            progress,
            started_at: now,
            started: Instant::now(),
            template,
            worker_until: None,
            seen_workers: None,
            overtaken: false,
            misled: false,
            attempts: 0,
            timings: vec![],
            spent: vec![],
            local_nodes,
            ran_on: held.as_ref().map(|a| a.node.clone()),
            held,
        }
    }

    /// The store's clock, as far as it can be told without asking.
    fn now(&self) -> Timestamp {
        self.started_at + self.started.elapsed()
    }

    fn epoch(&self) -> Epoch {
        self.record.header.epoch
    }

    /// Carries a step out and notes how long it took; of a step on a node, what the node says of it, and the rest.
    pub(super) async fn timed(&mut self, name: &str, step: Step) -> Result<(), DriveError> {
        let (began, noted) = (Instant::now(), self.timings.len());
        let work = step.work();
        let done = self.carry_out(step).await;
        let of_node: u64 = self.timings.iter().skip(noted).map(|t| t.micros).sum();
        let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let micros = took.saturating_sub(of_node);
        if let Some(work) = work {
            self.spend(work, took);
        }
        self.timings.push(StepTiming {
            name: name.to_lowercase(),
            micros,
        });
        done
    }

    fn spend(&mut self, work: Work, micros: u64) {
        let tenths = u32::try_from(micros / 100).unwrap_or(u32::MAX);
        match self.spent.iter_mut().find(|s| s.work == work) {
            Some(step) => step.tenths = step.tenths.saturating_add(tenths),
            None => self.spent.push(StepRecord { work, tenths }),
        }
    }

    async fn carry_out(&mut self, step: Step) -> Result<(), DriveError> {
        match step {
            Step::FindClaim => self.find_claim().await,
            Step::Claim => self.claim().await,
            Step::Observe => self.observe().await,
            Step::Start => self.start().await,
            Step::Checkpoint => self.checkpoint().await,
            Step::Spool(snapshot) => self.spool(&snapshot).await,
            Step::Publish => self.publish().await,
            Step::FindSnapshot => self.find_snapshot().await,
            Step::Stop => self.stop().await,
            Step::AwaitNode => self.await_node().await,
            Step::Commit(outcome) => self.commit(outcome).await,
            Step::Release => self.release().await,
            Step::Abandon => self.abandon().await,
            Step::DeleteSnapshots => self.delete_snapshots().await,
            Step::Remove | Step::Done => Ok(()),
        }
    }

    fn fail(&mut self, reason: Reason, message: impl Into<String>) {
        self.progress
            .failure
            .get_or_insert((reason, message.into()));
    }

    /// If the store forgets it, the snapshot is found on its node once more.
    async fn spool(&mut self, snapshot: &SnapshotRecord) -> Result<(), DriveError> {
        let next = spooled(&self.record, snapshot);
        let (store, owner) = (&self.engine.store, self.engine.owner);
        self.record = store.commit(&next, owner, Durability::Memory).await?;
        self.progress.saved = Observed::Absent;
        self.progress.kept = false;
        self.progress.failure = None;
        Ok(())
    }

    async fn commit(&mut self, outcome: Outcome) -> Result<(), DriveError> {
        let mut next = conclude(&self.record, &self.progress, &outcome, self.now());
        next.status.last_duration_micros =
            u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        next.status.last_steps = self.spent.clone();
        let durability = match outcome {
            Outcome::Running | Outcome::GoesOn | Outcome::AsBefore => Durability::Memory,
            Outcome::Suspended(_) | Outcome::Paused(_) | Outcome::RolledBack(_) => {
                Durability::Fsync
            }
        };
        self.record = self
            .engine
            .store
            .commit(&next, self.engine.owner, durability)
            .await?;
        let failure = self.progress.failure.as_ref().map(|(reason, _)| *reason);
        metrics::transition(&outcome, failure, self.started.elapsed());
        tracing::info!(actor = %self.record.key, epoch = %self.record.header.epoch, phase = %self.record.header.phase,
            micros = self.record.status.last_duration_micros, "transition");
        // Also what no record ever pointed to: an attempt that broke off may have published something.
        self.progress.superseded = self.epoch() > FIRST_SLEEP
            && matches!(outcome, Outcome::Suspended(_) | Outcome::Paused(_));
        match outcome {
            Outcome::Running | Outcome::Suspended(_) | Outcome::Paused(_) => {
                self.progress.failure = None;
            }
            Outcome::RolledBack(reason) => {
                self.fail(reason, "what it did after its last snapshot is lost");
            }
            Outcome::AsBefore | Outcome::GoesOn => {}
        }
        Ok(())
    }

    pub(super) async fn remove(&mut self) -> Result<(), DriveError> {
        self.engine
            .store
            .remove_actor(&self.record.key, self.epoch(), self.engine.owner)
            .await?;
        tracing::info!(actor = %self.record.key, "deleted");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_may_be_busy_for_as_long_as_its_order_takes() {
        for (phase, boots, order) in [
            (Phase::Resuming, true, RUN_LIMIT),
            (Phase::Resuming, false, RESTORE_LIMIT),
            (Phase::Suspending, false, CHECKPOINT_LIMIT),
            (Phase::Pausing, true, CHECKPOINT_LIMIT),
        ] {
            assert!(busy_limit(phase, boots) > order, "{phase}");
        }
    }
}
