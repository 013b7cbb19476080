//! Workers in memory.

use super::State;
use crate::api::names::{Epoch, PoolKey, ResourceVersion, WorkerKey};
use crate::api::record::{WorkerPhase, WorkerRecord};
use crate::store::{ClaimRequest, Image, Kind, Page, StoreError};
use uuid::Uuid;

impl State {
    fn write_worker(&mut self, mut worker: WorkerRecord) -> WorkerRecord {
        worker.resource_version = self.tick();
        worker.writes += 1;
        let place = (worker.pool.clone(), worker.key.clone());
        let before = self.workers.insert(place, worker.clone());
        self.log_worker(before, Some(worker.clone()));
        worker
    }

    fn holder(&self, pool: &PoolKey, actor: Uuid) -> Option<&WorkerRecord> {
        let holds =
            |w: &&WorkerRecord| w.pool == *pool && w.claim.as_ref().is_some_and(|c| c.uid == actor);
        self.workers.values().find(holds)
    }

    pub(super) fn report_worker(&mut self, worker: &WorkerRecord) -> WorkerRecord {
        let place = (worker.pool.clone(), worker.key.clone());
        let stored = self.workers.get(&place);
        let claim = stored.and_then(|s| s.claim.clone());
        let phase = match worker.phase {
            WorkerPhase::Free if claim.is_some() => WorkerPhase::Claimed,
            phase => phase,
        };
        let reported = WorkerRecord {
            phase,
            claim,
            created: stored.map_or(worker.created, |s| s.created),
            resource_version: stored.map(|s| s.resource_version).unwrap_or_default(),
            writes: stored.map_or(0, |s| s.writes),
            ..worker.clone()
        };
        if stored == Some(&reported) {
            return reported;
        }
        self.write_worker(reported)
    }

    pub(super) fn claim(
        &mut self,
        request: &ClaimRequest,
    ) -> Result<Option<WorkerRecord>, StoreError> {
        let wanted = &request.claim;
        let name = wanted.actor.to_string();
        if self.now() > wanted.deadline {
            return Err(StoreError::Fenced(name));
        }
        if let Some(held) = self.holder(&request.pool, wanted.uid) {
            let epoch = held.claim.as_ref().map(|c| c.epoch).unwrap_or_default();
            return match epoch.cmp(&wanted.epoch) {
                std::cmp::Ordering::Equal => Ok(Some(held.clone())),
                std::cmp::Ordering::Greater => Err(StoreError::Fenced(name)),
                std::cmp::Ordering::Less => Err(StoreError::Conflict(name)),
            };
        }
        let free = || {
            let of_pool = self.workers.values().filter(|w| w.pool == request.pool);
            of_pool.filter(|w| w.phase == WorkerPhase::Free)
        };
        let found = match &request.nodes {
            None => free().next(),
            Some(nodes) => nodes
                .iter()
                .find_map(|node| free().find(|w| w.node == *node)),
        };
        let Some(mut worker) = found.cloned() else {
            return Ok(None);
        };
        worker.phase = WorkerPhase::Claimed;
        worker.claim = Some(wanted.clone());
        Ok(Some(self.write_worker(worker)))
    }

    pub(super) fn release(
        &mut self,
        pool: &PoolKey,
        worker: &WorkerKey,
        actor: Uuid,
        epoch: Epoch,
    ) {
        let place = (pool.clone(), worker.clone());
        let Some(mut worker) = self.workers.get(&place).cloned() else {
            return;
        };
        let settled = worker.claim.take_if(|c| c.uid == actor && c.epoch <= epoch);
        if settled.is_none() {
            return;
        }
        if worker.phase == WorkerPhase::Claimed {
            worker.phase = WorkerPhase::Free;
        }
        self.write_worker(worker);
    }

    pub(super) fn remove_worker(&mut self, pool: &PoolKey, worker: &WorkerKey) {
        let place = (pool.clone(), worker.clone());
        if self.workers.get(&place).is_some_and(|w| w.claim.is_some()) {
            return;
        }
        if let Some(before) = self.workers.remove(&place) {
            self.tick();
            self.log_worker(Some(before), None);
        }
    }

    pub(super) fn list_workers(&self, pool: Option<&PoolKey>) -> Page<WorkerRecord> {
        let of_pool = |w: &&WorkerRecord| pool.is_none_or(|p| w.pool == *p);
        let items = self.workers.values().filter(of_pool).cloned().collect();
        Page::of_workers(items, self.version())
    }

    pub(super) fn workers_at(
        &self,
        at: Option<ResourceVersion>,
    ) -> Result<Page<WorkerRecord>, StoreError> {
        let at = self.version_of(at)?;
        let mut workers = self.workers.clone();
        for image in self.undone(Kind::Worker, at) {
            match image {
                (Some(Image::Worker(before)), _) => {
                    workers.insert((before.pool.clone(), before.key.clone()), *before);
                }
                (None, Some(Image::Worker(after))) => {
                    workers.remove(&(after.pool, after.key));
                }
                _ => {}
            }
        }
        Ok(Page::of_workers(workers.into_values().collect(), at))
    }
}
