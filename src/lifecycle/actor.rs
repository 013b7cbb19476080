//! The next step of an actor that an operation owns.
//!
//! The engine asks `plan` again after every step, with what the step found out. A fresh operation and one that took
//! over after a crash go through the same table; they differ only in what is known at the start.

use super::Observed;
use crate::api::names::{Epoch, WorkerKey};
use crate::api::record::{
    ActorRecord, Desired, LocalSnapshotRecord, Phase, RolledBack, SnapshotRecord, Work,
};
use crate::api::{Reason, Timestamp};

/// What a slot runs for the actor that is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sandbox {
    /// On its way up or down.
    Busy {
        /// Under which epoch.
        epoch: Epoch,
    },
    /// Ready for requests.
    Running {
        /// Since which epoch.
        epoch: Epoch,
        /// `host:port` of the assignment.
        address: String,
    },
    /// Ended by itself; its remains are still there.
    Exited,
}

/// What an operation knows beside the record.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The worker that is reserved for the actor.
    pub claim: Observed<WorkerKey>,
    /// The claim is an earlier operation's, whose owner may yet release it or have started something under it: the
    /// slot is cleaned and a worker claimed anew.
    pub inherited: bool,
    /// What that worker's slot runs for the actor.
    pub sandbox: Observed<Sandbox>,
    /// Whether the snapshot of this transition is complete. Absent in a fresh operation.
    pub saved: Observed<SnapshotRecord>,
    /// That snapshot is on its node only: it is still to be published.
    pub kept: bool,
    /// This wake cut a suspend short: when it fails, what that was to publish still is.
    pub cut_short: bool,
    /// Why the operation cannot reach its goal, once it cannot.
    pub failure: Option<(Reason, String)>,
    /// The worker's node did not renew its lease: what it ran is fenced off.
    pub node_lost: bool,
    /// The last failure's back-off has not passed: nothing is tried.
    pub held_back: bool,
    /// Older snapshots are still to be deleted.
    pub superseded: bool,
}

impl Progress {
    /// What a fresh operation knows: a record at rest implies that nothing is left of earlier ones.
    pub fn fresh(actor: &ActorRecord, before: Phase) -> Self {
        let claim = match &actor.status.assignment {
            Some(assignment) => Observed::Known(assignment.worker.clone()),
            None => Observed::Absent,
        };
        let sandbox = match (&actor.status.assignment, before) {
            (Some(a), Phase::Running) => Observed::Known(Sandbox::Running {
                epoch: actor.header.epoch,
                address: a.address.clone(),
            }),
            (Some(_), _) => Observed::Unknown,
            (None, _) => Observed::Absent,
        };
        Progress {
            claim,
            inherited: false,
            sandbox,
            saved: Observed::Absent,
            kept: false,
            cut_short: before == Phase::Suspending && actor.header.phase == Phase::Resuming,
            failure: None,
            node_lost: false,
            held_back: false,
            superseded: false,
        }
    }

    /// What an operation knows that took over: only the record.
    pub fn taken_over(actor: &ActorRecord) -> Self {
        let (claim, sandbox) = match (&actor.status.assignment, actor.header.phase) {
            (Some(assignment), _) => (
                Observed::Known(assignment.worker.clone()),
                Observed::Unknown,
            ),
            (None, Phase::Resuming) => (Observed::Unknown, Observed::Unknown),
            (None, _) => (Observed::Absent, Observed::Absent),
        };
        Progress {
            claim,
            inherited: false,
            sandbox,
            saved: Observed::Unknown,
            kept: false,
            cut_short: false,
            failure: None,
            node_lost: false,
            held_back: false,
            superseded: false,
        }
    }
}

/// Where a transition ends.
#[derive(Clone, Debug, PartialEq, Eq, strum::IntoStaticStr)]
pub enum Outcome {
    /// It runs on the claimed worker.
    Running,
    /// It is asleep with a new durable snapshot.
    Suspended(SnapshotRecord),
    /// It is asleep with a new snapshot on its node.
    Paused(SnapshotRecord),
    /// It is asleep as before: it could not be started, or was not wanted any more.
    AsBefore,
    /// It goes on running: it could not be saved.
    GoesOn,
    /// It lost what it did after its last snapshot.
    RolledBack(Reason),
}

/// The next step. Carried out by the engine, between two questions to [`plan`].
#[derive(Clone, Debug, PartialEq, Eq, strum::VariantNames, strum::IntoStaticStr)]
pub enum Step {
    /// Find the worker that an earlier operation reserved.
    FindClaim,
    /// Reserve a worker.
    Claim,
    /// Ask the slot what it runs.
    Observe,
    /// Start the sandbox on the reserved worker.
    Start,
    /// Save the sandbox on its node and end it.
    Checkpoint,
    /// Write that the snapshot is complete on its node: from here on it is published without a worker, and a wake need not wait.
    Spool(SnapshotRecord),
    /// Publish the snapshot that is on the node.
    Publish,
    /// Look whether the snapshot of this transition is complete.
    FindSnapshot,
    /// End the sandbox without saving it.
    Stop,
    /// Wait for the node to answer or to lose its lease.
    AwaitNode,
    /// Write where the transition ended.
    Commit(Outcome),
    /// Give the worker back.
    Release,
    /// Forget a worker whose node is lost.
    Abandon,
    /// Delete snapshots that nothing points to any more.
    DeleteSnapshots,
    /// Remove the record.
    Remove,
    /// Nothing is left to do.
    Done,
}

impl Step {
    /// What of a transition's time it takes, where a person wants to know it.
    pub fn work(&self) -> Option<Work> {
        match self {
            Step::Claim => Some(Work::Claim),
            Step::Start => Some(Work::Start),
            Step::Checkpoint => Some(Work::Checkpoint),
            Step::Spool(_) | Step::Release | Step::Abandon => Some(Work::Release),
            Step::Publish => Some(Work::Publish),
            Step::Stop => Some(Work::Stop),
            Step::FindClaim | Step::Observe | Step::FindSnapshot | Step::AwaitNode => {
                Some(Work::Find)
            }
            Step::Commit(_) | Step::DeleteSnapshots | Step::Remove | Step::Done => None,
        }
    }
}

/// The next step that brings `actor`, owned by the caller, to the end of its transition.
pub fn plan(actor: &ActorRecord, progress: &Progress) -> Step {
    match actor.header.phase {
        Phase::Resuming | Phase::Suspending | Phase::Pausing
            if actor.header.desired == Desired::Deleted =>
        {
            deleting(progress)
        }
        Phase::Resuming => resuming(actor, progress),
        Phase::Suspending | Phase::Pausing => saving(actor, progress),
        Phase::Running => settled(progress, false),
        Phase::Suspended | Phase::Paused => settled(progress, true),
    }
}

fn resuming(actor: &ActorRecord, progress: &Progress) -> Step {
    let wanted = actor.header.desired == Desired::Running && progress.failure.is_none();
    match (&progress.claim, &progress.sandbox) {
        (Observed::Unknown, _) => Step::FindClaim,
        (Observed::Absent, _) if wanted => Step::Claim,
        (Observed::Absent, _) if progress.cut_short && actor.status.local.is_some() => {
            Step::Publish
        }
        (Observed::Absent, _) => Step::Commit(Outcome::AsBefore),
        (Observed::Known(_), _) if progress.node_lost => Step::Abandon,
        (Observed::Known(_), Observed::Absent) if wanted && !progress.inherited => Step::Start,
        (Observed::Known(_), Observed::Absent) => Step::Release,
        // Only a stop keeps an order that is still on its way from being carried out on a released worker.
        (Observed::Known(_), _) if !wanted || progress.inherited => Step::Stop,
        (Observed::Known(_), Observed::Unknown) => Step::Observe,
        (Observed::Known(_), Observed::Known(sandbox)) => match sandbox {
            Sandbox::Running { epoch, .. } if *epoch == actor.header.epoch => {
                Step::Commit(Outcome::Running)
            }
            Sandbox::Busy { epoch } if *epoch == actor.header.epoch => Step::AwaitNode,
            Sandbox::Running { .. } | Sandbox::Busy { .. } | Sandbox::Exited => Step::Stop,
        },
    }
}

fn saving(actor: &ActorRecord, progress: &Progress) -> Step {
    if progress.claim == Observed::Unknown {
        return Step::FindClaim;
    }
    let unpublished = progress.kept && actor.header.phase == Phase::Suspending;
    if let Observed::Known(snapshot) = &progress.saved {
        return match (&progress.claim, &progress.sandbox) {
            (Observed::Known(_), Observed::Unknown) if !progress.node_lost => Step::Observe,
            (Observed::Known(_), Observed::Known(_)) if !progress.node_lost => Step::Stop,
            _ if unpublished && progress.node_lost => {
                Step::Commit(Outcome::RolledBack(Reason::NodeLost))
            }
            _ if unpublished => Step::Spool(snapshot.clone()),
            _ => Step::Commit(saved(actor, snapshot.clone())),
        };
    }
    if actor.header.yields || progress.claim == Observed::Absent {
        return match progress.claim {
            Observed::Known(_) if !progress.node_lost => Step::Release,
            Observed::Known(_) | Observed::Absent | Observed::Unknown => {
                saving_without_worker(actor, progress)
            }
        };
    }
    if progress.node_lost {
        return match progress.saved {
            Observed::Unknown => Step::FindSnapshot,
            Observed::Absent | Observed::Known(_) => {
                Step::Commit(Outcome::RolledBack(Reason::NodeLost))
            }
        };
    }
    match (&progress.sandbox, &progress.saved) {
        (Observed::Unknown, _) => Step::Observe,
        (Observed::Known(Sandbox::Running { .. }), _) if progress.failure.is_some() => {
            Step::Commit(Outcome::GoesOn)
        }
        (Observed::Known(Sandbox::Running { .. }), _) => Step::Checkpoint,
        (Observed::Known(Sandbox::Busy { .. }), _) => Step::AwaitNode,
        (Observed::Known(Sandbox::Exited), Observed::Unknown) => Step::FindSnapshot,
        (Observed::Known(Sandbox::Exited), _) => Step::Stop,
        (Observed::Absent, Observed::Unknown) => Step::FindSnapshot,
        (Observed::Absent, _) => Step::Commit(Outcome::RolledBack(loss(progress))),
    }
}

/// There is no sandbox, only a snapshot on a node.
fn saving_without_worker(actor: &ActorRecord, progress: &Progress) -> Step {
    match (&actor.status.local, &progress.saved, &progress.failure) {
        (None, _, _) => Step::Commit(Outcome::AsBefore),
        (Some(_), _, _) if progress.node_lost => {
            Step::Commit(Outcome::RolledBack(Reason::NodeLost))
        }
        (Some(_), _, Some(_)) => Step::Commit(Outcome::AsBefore),
        (Some(_), _, None) => Step::Publish,
    }
}

fn loss(progress: &Progress) -> Reason {
    progress
        .failure
        .as_ref()
        .map_or(Reason::SandboxLost, |(reason, _)| *reason)
}

fn saved(actor: &ActorRecord, snapshot: SnapshotRecord) -> Outcome {
    match actor.header.phase {
        Phase::Pausing => Outcome::Paused(snapshot),
        Phase::Suspending | Phase::Suspended | Phase::Resuming | Phase::Running | Phase::Paused => {
            Outcome::Suspended(snapshot)
        }
    }
}

fn deleting(progress: &Progress) -> Step {
    match (&progress.claim, &progress.sandbox) {
        (Observed::Known(_), _) if progress.node_lost => Step::Abandon,
        (Observed::Known(_), Observed::Unknown | Observed::Known(_)) => Step::Stop,
        (Observed::Known(_), Observed::Absent) => Step::Release,
        (Observed::Unknown, _) => Step::FindClaim,
        (Observed::Absent, _) if progress.superseded => Step::DeleteSnapshots,
        (Observed::Absent, _) => Step::Remove,
    }
}

/// After the commit: what is no longer needed goes.
fn settled(progress: &Progress, asleep: bool) -> Step {
    match &progress.claim {
        Observed::Known(_) if asleep && progress.node_lost => Step::Abandon,
        Observed::Known(_) if asleep => Step::Release,
        Observed::Known(_) | Observed::Absent | Observed::Unknown if progress.superseded => {
            Step::DeleteSnapshots
        }
        Observed::Known(_) | Observed::Absent | Observed::Unknown => Step::Done,
    }
}

/// The record of a suspend whose snapshot is complete on its node: its worker may be given back, and a wake may come first.
pub fn spooled(actor: &ActorRecord, snapshot: &SnapshotRecord) -> ActorRecord {
    let mut next = actor.clone();
    next.header.yields = true;
    on_node(&mut next, snapshot);
    next.status.assignment = None;
    next
}

/// The record at the end of a transition. `now` is the store's clock.
pub fn conclude(
    actor: &ActorRecord,
    progress: &Progress,
    outcome: &Outcome,
    now: Timestamp,
) -> ActorRecord {
    let mut next = actor.clone();
    next.header.lease = None;
    next.header.boot = false;
    next.header.yields = false;
    next.status.last_transition = now;
    match outcome {
        Outcome::Running => {
            next.header.phase = Phase::Running;
            next.header.desired = Desired::Running;
            next.status.failure = None;
            next.status.last_activity = now;
        }
        Outcome::Suspended(snapshot) => {
            asleep(&mut next, Phase::Suspended);
            next.status.durable = Some(snapshot.clone());
            next.status.local = None;
            next.status.rolled_back = None;
            next.status.failure = None;
        }
        Outcome::Paused(snapshot) => {
            on_node(&mut next, snapshot);
            asleep(&mut next, Phase::Paused);
            next.status.failure = None;
        }
        Outcome::AsBefore => {
            let phase = if actor.status.local.is_some() {
                Phase::Paused
            } else {
                Phase::Suspended
            };
            asleep(&mut next, phase);
            next.status.failure = failure(actor, progress, now);
        }
        Outcome::GoesOn => {
            next.header.phase = Phase::Running;
            next.header.desired = Desired::Running;
            next.status.failure = failure(actor, progress, now);
        }
        Outcome::RolledBack(reason) => roll_back(&mut next, progress, *reason, now),
    }
    next
}

/// Its newest snapshot is on the node that it ran on.
fn on_node(next: &mut ActorRecord, snapshot: &SnapshotRecord) {
    let assignment = next.status.assignment.as_ref();
    let node = assignment.map(|a| a.node.clone()).unwrap_or_default();
    next.status.local = Some(LocalSnapshotRecord {
        snapshot: snapshot.clone(),
        node,
    });
    next.status.rolled_back = None;
}

fn asleep(next: &mut ActorRecord, phase: Phase) {
    next.header.phase = phase;
    if next.header.desired != Desired::Deleted {
        next.header.desired = if phase == Phase::Paused {
            Desired::Paused
        } else {
            Desired::Suspended
        };
    }
    next.status.assignment = None;
}

fn roll_back(next: &mut ActorRecord, progress: &Progress, reason: Reason, now: Timestamp) {
    let lost = |node: &str| {
        let ran_on = next.status.assignment.as_ref().map(|a| a.node.as_str());
        progress.node_lost && ran_on.is_none_or(|n| n == node)
    };
    if next.status.local.as_ref().is_some_and(|l| lost(&l.node)) {
        next.status.local = None;
    }
    let phase = if next.status.local.is_some() {
        Phase::Paused
    } else {
        Phase::Suspended
    };
    let newest = next.status.local.as_ref().map(|l| l.snapshot.time).or(next
        .status
        .durable
        .as_ref()
        .map(|d| d.time));
    asleep(next, phase);
    let failure = progress.failure.as_ref();
    let message = failure.map(|(_, message)| message.clone());
    next.status.rolled_back = Some(RolledBack {
        reason,
        message: message.unwrap_or_default(),
        time: now,
        to: newest,
    });
    next.status.failure = None;
}

/// First pause between two attempts; doubled for each further failure.
const BACKOFF_FIRST_MS: u64 = 500;
/// Longest pause between two attempts.
const BACKOFF_MOST_MS: u64 = 60_000;

fn failure(
    actor: &ActorRecord,
    progress: &Progress,
    now: Timestamp,
) -> Option<crate::api::record::Failure> {
    if progress.held_back {
        return actor.status.failure.clone();
    }
    let (reason, message) = progress.failure.clone()?;
    let count = actor
        .status
        .failure
        .as_ref()
        .filter(|f| f.reason == reason)
        .map_or(0, |f| f.count)
        + 1;
    let pause = match reason {
        // Only a wake is held back, and this says nothing against one.
        Reason::NoFreeWorkers | Reason::CheckpointFailed => 0,
        reason if reason.is_of_workers() => 0,
        reason if reason.is_of_template() => 0,
        _ => (BACKOFF_FIRST_MS << count.saturating_sub(1).min(10)).min(BACKOFF_MOST_MS),
    };
    let retry_at = now + std::time::Duration::from_millis(pause);
    Some(crate::api::record::Failure {
        reason,
        message,
        count,
        time: now,
        retry_at,
    })
}

#[cfg(test)]
mod tests;
