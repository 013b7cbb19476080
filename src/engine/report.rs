//! What nodes say of their slots, taken into the store; and what follows when a sandbox is gone.

use super::directory::is_silent;
use super::steps::sandbox_of;
use super::workload::identity;
use super::{Call, DriveError, Engine};
use crate::api::node::NodeUsage;
use crate::api::record::{ActorRecord, Claim, Desired, Phase, WorkerPhase, WorkerRecord};
use crate::api::{ActorKey, Epoch, PoolKey, SnapshotId, Timestamp, WorkerKey};
use crate::lifecycle::Observed;
use crate::lifecycle::actor::Sandbox;
use crate::lifecycle::edges::Intent;
use crate::lifecycle::settle::{self, Verdict};
use crate::proto::atenode as wire;
use crate::rpc::nodes::NodeError;
use crate::store::StoreError;
use rand::seq::IndexedRandom;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// How long a node is asked what a slot runs.
const ASK_LIMIT: Duration = Duration::from_secs(5);
/// How long rolling an actor back may take before it is left to recovery.
const ROLL_BACK_LIMIT: Duration = Duration::from_secs(120);
/// How long the suspension of what runs on a worker that leaves may take before it is left to recovery.
const SUSPEND_LIMIT: Duration = Duration::from_secs(120);
/// Golden snapshots' images that a node is told of.
const MAX_GOLDEN_IMAGES: usize = 1024;
/// How long an unchanged report is not taken in again: other replicas may have removed what this one has seen.
const TAKE_IN_AGAIN: Duration = Duration::from_secs(15);

/// Of a node's own snapshots at most so many are held against records at a time; which ones, chance decides.
const MOST_JUDGED: usize = 32;

/// The slots that each node reported last, and when, so that an unchanged report costs one write.
#[derive(Default)]
pub(super) struct Seen {
    slots: Mutex<HashMap<String, (Vec<wire::Slot>, Instant)>>,
    /// When a node's own snapshots were judged last.
    judged: Mutex<HashMap<String, Instant>>,
}

impl Seen {
    fn changed(&self, node: &str, slots: &[wire::Slot]) -> bool {
        let all = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(node)
            .is_none_or(|(seen, at)| seen != slots || at.elapsed() > TAKE_IN_AGAIN)
    }

    fn remember(&self, node: &str, slots: &[wire::Slot]) {
        self.slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(node.to_owned(), (slots.to_vec(), Instant::now()));
    }

    /// Whether a node's own snapshots are to be judged again; then they count as judged.
    fn judge_again(&self, node: &str, at_once: bool) -> bool {
        let mut all = self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        let due = at_once || all.get(node).is_none_or(|at| at.elapsed() > TAKE_IN_AGAIN);
        if due {
            all.insert(node.to_owned(), Instant::now());
        }
        due
    }
}

fn usage(report: &wire::ReportRequest) -> NodeUsage {
    let usage = report.usage.unwrap_or_default();
    NodeUsage {
        cache_bytes: usage.cache_bytes,
        spool_bytes: usage.spool_bytes,
        capacity_bytes: usage.capacity_bytes,
    }
}

impl Engine {
    /// Takes in a node's report: renews its lease, adds and removes workers, and notices sandboxes that are gone.
    pub async fn report(
        self: &Arc<Self>,
        report: &wire::ReportRequest,
    ) -> Result<wire::ReportResponse, DriveError> {
        let lease = self.options.node_lease;
        let (nodes, now) = self.directory.refresh(&*self.store).await?;
        let known = nodes.iter().find(|n| n.name == report.node);
        let lapsed = report.lapsed || known.is_some_and(|n| n.lease <= now);
        let silent = known.is_some_and(|n| is_silent(n, lease, now));
        let node = self
            .store
            .renew_node(
                &report.node,
                &report.address,
                report.runtime.parse().ok(),
                usage(report),
                lease,
            )
            .await?;
        self.directory.learn(node);
        // Only after the renewal: who counted the node among the lost has begun before, which the records show.
        let mut stop_slots = vec![];
        if lapsed || silent || self.reports.changed(&report.node, &report.slots) {
            stop_slots = self.take_in(report, lapsed).await?;
            self.reports.remember(&report.node, &report.slots);
        }
        let mut drop_snapshots = vec![];
        if self.reports.judge_again(&report.node, lapsed || silent) {
            drop_snapshots = self.superseded(&report.local_snapshots).await?;
        }
        if report.incarnation > self.incarnation().await? {
            self.forget_incarnation();
        }
        let incarnation = self.incarnation().await?;
        Ok(wire::ReportResponse {
            incarnation,
            lease_ms: u64::try_from(lease.as_millis()).unwrap_or(u64::MAX),
            stop_slots,
            drop_snapshots,
            golden_images: self.golden_images(),
        })
    }

    fn golden_images(&self) -> Vec<String> {
        let templates = self.catalog.templates();
        let golden = templates.iter().filter(|template| {
            let status = template.status.as_ref();
            status.is_some_and(|s| !s.golden_snapshots.is_empty())
        });
        let containers = golden.flat_map(|template| &template.spec.containers);
        let images = containers.map(|c| c.image.clone());
        let distinct: BTreeSet<String> = images.collect();
        distinct.into_iter().take(MAX_GOLDEN_IMAGES).collect()
    }

    /// Of the snapshots that a node alone has, those that no record needs any more.
    async fn superseded(
        &self,
        snapshots: &[wire::LocalSnapshot],
    ) -> Result<Vec<String>, DriveError> {
        let judged: Vec<_> = snapshots
            .choose_multiple(&mut rand::rng(), MOST_JUDGED)
            .collect();
        let mut gone = vec![];
        for snapshot in judged {
            let Ok(id) = snapshot.id.parse::<SnapshotId>() else {
                continue;
            };
            let key = ActorKey::new(&snapshot.namespace, &snapshot.name);
            let actor = self.find(&key).await?;
            if settle::is_superseded(&id, actor.as_ref()) {
                tracing::info!(actor = %key, id = snapshot.id, "no record needs this snapshot of a node any more");
                gone.push(snapshot.id.clone());
            }
        }
        Ok(gone)
    }

    /// Returns the slots that are to be stopped.
    async fn take_in(
        self: &Arc<Self>,
        report: &wire::ReportRequest,
        lapsed: bool,
    ) -> Result<Vec<String>, DriveError> {
        let known = self.store.list_workers(None).await?.items;
        let mut stop = vec![];
        for slot in &report.slots {
            let mut worker = worker_of(report, slot);
            let same = |w: &&WorkerRecord| w.key == worker.key && w.pool == worker.pool;
            let before = known.iter().find(same);
            let claimed = before.is_some_and(|w| w.claim.is_some());
            if (lapsed || !claimed) && !self.is_stood_for(slot, &worker).await? {
                stop.push(slot.uid.clone());
            }
            if worker.phase == WorkerPhase::Free && holds_leftover(slot, before) {
                worker.phase = WorkerPhase::Dirty;
            }
            let worker = self.store.report_worker(&worker).await?;
            let Some(claim) = &worker.claim else { continue };
            let holds = slot
                .actor
                .as_ref()
                .is_some_and(|a| a.uid == claim.uid.to_string());
            if !holds || slot.phase() == wire::slot::Phase::Exited {
                self.clone().check_later(claim.actor.clone());
            } else if slot.draining {
                self.clone().put_to_sleep_later(worker);
            }
        }
        for worker in known {
            let gone =
                worker.node == report.node && !report.slots.iter().any(|s| s.uid == worker.uid);
            let replaced = report
                .slots
                .iter()
                .any(|s| worker_of(report, s).key == worker.key);
            match &worker.claim {
                Some(claim) if gone && replaced => self.clone().check_later(claim.actor.clone()),
                _ if gone && !replaced => self.worker_gone(worker).await?,
                _ => {}
            }
        }
        Ok(stop)
    }

    /// Whether the record of the actor that a slot runs says that it runs there. An operation that is under way may have
    /// counted the node among the lost: it has to find the slot stopped, not thawed.
    async fn is_stood_for(
        &self,
        slot: &wire::Slot,
        worker: &WorkerRecord,
    ) -> Result<bool, DriveError> {
        let Some(identity) = &slot.actor else {
            return Ok(true);
        };
        let key = ActorKey::new(&identity.namespace, &identity.name);
        let Some(actor) = self.find(&key).await? else {
            return Ok(false);
        };
        let here = actor.status.assignment.as_ref();
        Ok(actor.header.phase == Phase::Running
            && actor.status.uid.to_string() == identity.uid
            && here.is_some_and(|a| a.worker == worker.key && a.uid == slot.uid))
    }

    async fn worker_gone(self: &Arc<Self>, mut worker: WorkerRecord) -> Result<(), DriveError> {
        tracing::info!(worker = %worker.key, uid = worker.uid, "worker is gone");
        if let Some(claim) = &worker.claim {
            self.clone().check_later(claim.actor.clone());
            let actor = self.claimant(claim).await?;
            let needed =
                actor.is_some_and(|a| a.header.phase.is_transitional() || runs_on(&a, &worker));
            if needed {
                // Whoever releases it must not leave it free.
                worker.phase = WorkerPhase::Draining;
                self.store.report_worker(&worker).await?;
                return Ok(());
            }
            self.store
                .release(&worker.pool, &worker.key, claim.uid, claim.epoch)
                .await?;
        }
        Ok(self.store.remove_worker(&worker.pool, &worker.key).await?)
    }

    fn check_later(self: Arc<Self>, actor: ActorKey) {
        tokio::spawn(async move {
            if let Err(e) = self.check(&actor).await {
                tracing::warn!(%actor, error = %e, "could not be checked");
            }
        });
    }

    /// Suspends what runs on a worker that leaves. What fails is tried again when its node is next taken in.
    fn put_to_sleep_later(self: Arc<Self>, worker: WorkerRecord) {
        tokio::spawn(async move {
            if let Err(error) = self.put_to_sleep(&worker).await {
                tracing::warn!(worker = %worker.key, %error, "what runs there could not be suspended");
            }
        });
    }

    async fn put_to_sleep(self: &Arc<Self>, worker: &WorkerRecord) -> Result<(), DriveError> {
        let Some(claim) = &worker.claim else {
            return Ok(());
        };
        let actor = self.claimant(claim).await?;
        let here = |a: &ActorRecord| a.header.phase == Phase::Running && runs_on(a, worker);
        let Some(actor) = actor.filter(here) else {
            return Ok(());
        };
        tracing::info!(worker = %worker.key, actor = %actor.key, "the worker leaves; its actor is suspended");
        let suspended = Intent::Want(Desired::Suspended);
        let call = Call::within(SUSPEND_LIMIT).only(claim.uid);
        match self.reach(&actor.key, suspended, call).await {
            Ok(_) | Err(DriveError::InProgress | DriveError::NotFound(_)) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Rolls a running actor back whose sandbox is gone. A sandbox that runs, or cannot be asked, is left alone.
    pub async fn check(self: &Arc<Self>, key: &ActorKey) -> Result<(), DriveError> {
        let Some(actor) = self.find(key).await? else {
            return Ok(());
        };
        if actor.header.phase != Phase::Running {
            return Ok(());
        }
        match self.look(&actor).await? {
            Observed::Absent | Observed::Known(Sandbox::Exited) => {
                tracing::warn!(actor = %key, "its sandbox is gone; rolling back");
                match self
                    .reach(key, Intent::Lost, Call::within(ROLL_BACK_LIMIT))
                    .await
                {
                    Ok(_) | Err(DriveError::InProgress | DriveError::NotFound(_)) => Ok(()),
                    Err(e) => Err(e),
                }
            }
            Observed::Unknown | Observed::Known(Sandbox::Running { .. } | Sandbox::Busy { .. }) => {
                Ok(())
            }
        }
    }

    /// What the slot of a running actor runs. A lost node runs nothing any more.
    async fn look(&self, actor: &ActorRecord) -> Result<Observed<Sandbox>, DriveError> {
        let Some(assignment) = &actor.status.assignment else {
            return Ok(Observed::Absent);
        };
        if self
            .directory
            .is_lost(&*self.store, &assignment.node)
            .await?
        {
            return Ok(Observed::Absent);
        }
        let Some(address) = self
            .directory
            .address(&*self.store, &assignment.node)
            .await?
        else {
            return Ok(Observed::Unknown);
        };
        let request = wire::ObserveRequest {
            target_ateom_uid: assignment.uid.clone(),
        };
        match self.nodes.observe(&address, request, ASK_LIMIT).await {
            Ok(response) => Ok(sandbox_of(&response, &assignment.uid, &identity(actor))),
            Err(NodeError::NotFound { .. }) => Ok(Observed::Absent),
            Err(_) => Ok(Observed::Unknown),
        }
    }

    /// Who holds a claim, unless it is gone: its name may be another's by now.
    async fn claimant(&self, claim: &Claim) -> Result<Option<ActorRecord>, DriveError> {
        let named = self.find(&claim.actor).await?;
        Ok(named.filter(|a| a.status.uid == claim.uid))
    }

    pub(super) async fn find(&self, key: &ActorKey) -> Result<Option<ActorRecord>, DriveError> {
        match self.store.get_actor(key).await {
            Ok(actor) => Ok(Some(actor)),
            Err(StoreError::NotFound(_)) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Judges a worker's claim against its actor's record; what nobody stands behind is stopped and released.
    pub(super) async fn settle(
        self: &Arc<Self>,
        worker: &WorkerRecord,
        now: Timestamp,
    ) -> Result<(), DriveError> {
        let Some(claim) = &worker.claim else {
            return Ok(());
        };
        let actor = self.claimant(claim).await?;
        match settle::judge(&worker.key, claim, actor.as_ref(), now) {
            Verdict::Valid => self.check(&claim.actor).await,
            Verdict::Wait => Ok(()),
            Verdict::Stale => self.free(worker, actor.as_ref()).await,
        }
    }

    async fn free(
        &self,
        worker: &WorkerRecord,
        actor: Option<&ActorRecord>,
    ) -> Result<(), DriveError> {
        let Some(claim) = &worker.claim else {
            return Ok(());
        };
        tracing::info!(worker = %worker.key, actor = %claim.actor, "settling a claim that nobody stands behind");
        if !self.directory.is_lost(&*self.store, &worker.node).await? {
            let newest = actor.map_or(claim.epoch, |a| a.header.epoch.max(claim.epoch));
            if let Err(e) = self.clear(worker, claim.uid, newest).await? {
                tracing::warn!(worker = %worker.key, error = %e, "cannot be settled yet");
                return Ok(());
            }
        }
        Ok(self
            .store
            .release(&worker.pool, &worker.key, claim.uid, claim.epoch)
            .await?)
    }

    /// Ends what the slot of a worker still runs for an actor.
    async fn clear(
        &self,
        worker: &WorkerRecord,
        actor: Uuid,
        epoch: Epoch,
    ) -> Result<Result<(), NodeError>, DriveError> {
        let Some(address) = self.directory.address(&*self.store, &worker.node).await? else {
            return Ok(Err(NodeError::TimedOut));
        };
        let request = wire::ObserveRequest {
            target_ateom_uid: worker.uid.clone(),
        };
        let slots = match self.nodes.observe(&address, request, ASK_LIMIT).await {
            Ok(response) => response.slots,
            Err(NodeError::NotFound { .. }) => return Ok(Ok(())),
            Err(e) => return Ok(Err(e)),
        };
        let slot = slots.into_iter().find(|s| s.uid == worker.uid);
        let Some((identity, at)) = slot.and_then(|s| Some((s.actor?, s.epoch))) else {
            return Ok(Ok(()));
        };
        if identity.uid != actor.to_string() {
            return Ok(Ok(()));
        }
        let fence = wire::Fence {
            epoch: epoch.0.max(at),
            incarnation: self.incarnation().await?,
            not_after_ms: 0,
        };
        let request = wire::StopRequest {
            target_ateom_uid: worker.uid.clone(),
            actor: Some(identity),
            fence: Some(fence),
        };
        match self.nodes.stop(&address, request, ASK_LIMIT).await {
            Ok(_) | Err(NodeError::NotFound { .. }) => Ok(Ok(())),
            Err(e) => Ok(Err(e)),
        }
    }
}

/// Whether a slot has to come to an end of something before it can be claimed again, whoever releases it now: what nobody
/// claims, or what its earlier executor left for the next, such as an image that is still to be delivered.
fn holds_leftover(slot: &wire::Slot, before: Option<&WorkerRecord>) -> bool {
    let inherited = |w: &WorkerRecord| w.uid != slot.uid || w.phase == WorkerPhase::Dirty;
    let claimed = before.filter(|w| w.claim.is_some());
    slot.actor.is_some() && claimed.is_none_or(inherited)
}

fn runs_on(actor: &ActorRecord, worker: &WorkerRecord) -> bool {
    actor
        .status
        .assignment
        .as_ref()
        .is_some_and(|a| a.worker == worker.key)
}

fn worker_of(report: &wire::ReportRequest, slot: &wire::Slot) -> WorkerRecord {
    use wire::slot::Phase as P;
    let phase = match slot.phase() {
        P::Dirty => WorkerPhase::Dirty,
        P::Free | P::Busy | P::Running | P::Exited | P::Unspecified if slot.draining => {
            WorkerPhase::Draining
        }
        P::Free | P::Busy | P::Running | P::Exited | P::Unspecified => WorkerPhase::Free,
    };
    WorkerRecord {
        key: WorkerKey::new(&slot.namespace, &slot.name),
        pool: PoolKey::new(&slot.namespace, &slot.pool),
        uid: slot.uid.clone(),
        node: report.node.clone(),
        ip: slot.ip.clone(),
        sandbox_class: slot.sandbox_class.clone(),
        phase,
        created: Timestamp::now(),
        ..WorkerRecord::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(uid: &str, actor: bool) -> wire::Slot {
        wire::Slot {
            uid: uid.into(),
            actor: actor.then(wire::ActorIdentity::default),
            ..wire::Slot::default()
        }
    }

    fn worker(phase: WorkerPhase, claimed: bool) -> WorkerRecord {
        WorkerRecord {
            uid: "before".into(),
            phase,
            claim: claimed.then(|| Claim {
                actor: ActorKey::new("ns", "a"),
                uid: Uuid::nil(),
                epoch: Epoch(1),
                deadline: Timestamp(0),
            }),
            ..WorkerRecord::default()
        }
    }

    #[test]
    fn a_slot_with_a_leftover_is_not_free_when_it_is_released() {
        use WorkerPhase::{Claimed, Dirty, Free};
        let (same, new) = (slot("before", true), slot("after", true));
        for (slot, before, leftover) in [
            (&same, None, true),
            (&same, Some(worker(Free, false)), true),
            (&same, Some(worker(Claimed, true)), false),
            (&new, Some(worker(Claimed, true)), true),
            (&same, Some(worker(Dirty, true)), true),
            (&slot("before", false), Some(worker(Dirty, true)), false),
            (&slot("after", false), Some(worker(Claimed, true)), false),
            (&slot("before", false), None, false),
        ] {
            assert_eq!(
                holds_leftover(slot, before.as_ref()),
                leftover,
                "{slot:?} {before:?}"
            );
        }
    }
}
