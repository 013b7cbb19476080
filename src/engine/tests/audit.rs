//! What must hold after every change of a record, and when everything has come to rest.

use super::world::{Content, State, World};
use crate::api::names::SnapshotId;
use crate::api::record::{ActorRecord, Desired, WorkerRecord};
use crate::store::Store;
use crate::store::memory::MemoryStore;

/// More than there are.
const ALL: usize = 100;

pub async fn all(store: &MemoryStore) -> (Vec<ActorRecord>, Vec<WorkerRecord>) {
    let actors = store
        .list_actors(None, None, ALL)
        .await
        .expect("the store lists");
    let workers = store.list_workers(None).await.expect("the store lists");
    (actors.items, workers.items)
}

/// After a change of a record.
pub async fn records(world: &World, store: &MemoryStore) {
    let (actors, workers) = all(store).await;
    let mut state = world.lock();
    for actor in &actors {
        look_at(&mut state, actor);
    }
    state.look_at_claims(&workers);
}

fn look_at(state: &mut State, actor: &ActorRecord) {
    let name = &actor.key.name;
    if actor.header.phase.is_transitional() != actor.header.lease.is_some() {
        state.violate(format!(
            "4: {name} is {} with lease {:?}",
            actor.header.phase, actor.header.lease
        ));
    }
    let s = &actor.status;
    // Nobody goes on from the snapshots of one that is being deleted.
    let kept = actor.header.desired != Desired::Deleted;
    if let Some(durable) = s.durable.as_ref().filter(|_| kept) {
        let id = actor.snapshot_id(durable);
        if !state.durable.get(&id).is_some_and(|s| s.complete) {
            state.violate(format!("2: {name} points to {id}, which is not there"));
        }
    }
    if let Some(local) = s.local.as_ref().filter(|_| kept) {
        let id = actor.snapshot_id(&local.snapshot);
        let node = state.nodes.iter().find(|n| n.name == local.node);
        let there =
            node.is_some_and(|n| n.local.contains_key(&id)) || state.durable.contains_key(&id);
        if !there {
            state.violate(format!(
                "2: {name} points to {id} on {}, which is not there",
                local.node
            ));
        }
    }
    let promise = state.promises.entry(s.uid).or_default();
    if s.rolled_back != promise.rolled_back {
        promise.rolled_back = s.rolled_back.clone();
        if s.rolled_back.is_some() {
            promise.lowered = true;
            promise.rollbacks += 1;
            state.rolled_back += 1;
        }
    }
}

impl State {
    /// Invariants 3 and 10: who claims a worker finds its slot clean.
    fn look_at_claims(&mut self, workers: &[WorkerRecord]) {
        let claims = workers
            .iter()
            .filter_map(|w| Some((w.key.clone(), w.claim.as_ref().map(|c| (c.uid, c.epoch))?)))
            .collect();
        let old = std::mem::replace(&mut self.claims, claims);
        for worker in workers {
            let claim = self.claims.get(&worker.key);
            if claim.is_none() || claim == old.get(&worker.key) {
                continue;
            }
            let Some(slot) = self.slots.iter().find(|s| s.uid == worker.uid) else {
                continue;
            };
            let clean = matches!(slot.content, Content::Free) || !self.has_lease(slot.node);
            if !clean {
                let what = format!(
                    "3/10: {} is claimed by {claim:?}, but runs {:?}",
                    worker.key, slot.actor
                );
                self.violate(what);
            }
        }
    }
}

/// When nobody wants anything any more: every actor is at rest, every worker free, nothing is left of deleted actors.
pub async fn at_rest(world: &World, store: &MemoryStore) -> Result<(), String> {
    let (actors, workers) = all(store).await;
    let state = world.lock();
    for actor in &actors {
        if actor.header.phase.is_transitional() {
            return Err(format!("{} is {}", actor.key, actor.header.phase));
        }
    }
    for slot in state.slots.iter().filter(|s| !state.nodes[s.node].lost) {
        let worker = workers.iter().find(|w| w.uid == slot.uid);
        let Some(worker) = worker else {
            return Err(format!("slot {} {} has no worker", slot.name, slot.uid));
        };
        let by = |a: &ActorRecord| {
            a.status
                .assignment
                .as_ref()
                .is_some_and(|a| a.worker == worker.key)
        };
        let holder = actors.iter().find(|a| by(a));
        match (&worker.claim, holder) {
            (Some(claim), Some(actor)) if claim.uid == actor.status.uid => {}
            (None, None) if worker.phase == crate::api::record::WorkerPhase::Free => {
                if !matches!(slot.content, Content::Free) {
                    return Err(format!("{} is free, but runs {:?}", worker.key, slot.actor));
                }
            }
            (claim, holder) => {
                return Err(format!(
                    "{} is {:?}, claimed by {claim:?}, held by {:?}",
                    worker.key,
                    worker.phase,
                    holder.map(|a| &a.key)
                ));
            }
        }
    }
    let ghost = workers
        .iter()
        .find(|w| !state.slots.iter().any(|s| s.uid == w.uid));
    if let Some(ghost) = ghost {
        return Err(format!("worker {} has no slot", ghost.key));
    }
    Ok(())
}

/// Snapshots in object storage that no record points to.
pub async fn leaked(world: &World, store: &MemoryStore) -> Vec<String> {
    let (actors, _) = all(store).await;
    let state = world.lock();
    let wanted = |id: &SnapshotId| {
        actors.iter().any(|a| {
            let own = a
                .status
                .durable
                .iter()
                .chain(a.status.local.as_ref().map(|l| &l.snapshot));
            own.into_iter().any(|s| a.snapshot_id(s) == *id)
        })
    };
    let ids = state.durable.keys().filter(|id| !wanted(id));
    ids.map(ToString::to_string).collect()
}
