//! Actors in memory.

use super::State;
use crate::api::names::{ActorKey, Epoch, ResourceVersion};
use crate::api::record::{ActorRecord, Desired, Lease, MetaRecord, SpecRecord};
use crate::api::time::Timestamp;
use crate::store::{Begin, Begun, Edge, Expiry, Image, Kind, ListRequest, Page, StoreError};
use std::ops::Bound;
use std::time::Duration;

fn fenced(key: &ActorKey) -> StoreError {
    StoreError::Fenced(key.to_string())
}

impl State {
    pub(super) fn actor(&self, key: &ActorKey) -> Result<&ActorRecord, StoreError> {
        let found = self.actors.get(key);
        found.ok_or_else(|| StoreError::NotFound(key.to_string()))
    }

    fn actor_mut(&mut self, key: &ActorKey) -> Result<&mut ActorRecord, StoreError> {
        let found = self.actors.get_mut(key);
        found.ok_or_else(|| StoreError::NotFound(key.to_string()))
    }

    /// Stamps, stores and logs.
    fn write_actor(&mut self, mut record: ActorRecord) -> ActorRecord {
        record.header.resource_version = self.tick();
        record.header.writes += 1;
        let before = self.actors.insert(record.key.clone(), record.clone());
        self.log_actor(before, Some(record.clone()));
        record
    }

    /// The record when the caller owns it.
    fn owned(
        &mut self,
        key: &ActorKey,
        epoch: Epoch,
        owner: u64,
    ) -> Result<&mut ActorRecord, StoreError> {
        let record = self.actor_mut(key)?;
        let lease = record.header.lease;
        if record.header.epoch != epoch || lease.is_none_or(|l| l.owner != owner) {
            return Err(fenced(key));
        }
        Ok(record)
    }

    pub(super) fn create_actor(
        &mut self,
        mut record: ActorRecord,
        cap: u64,
    ) -> Result<ActorRecord, StoreError> {
        let key = record.key.clone();
        if let Some(existing) = self.actors.get(&key) {
            if existing.status.uid == record.status.uid {
                return Ok(existing.clone());
            }
            return Err(StoreError::Exists(key.to_string()));
        }
        let of_namespace = self.actors.keys().filter(|k| k.namespace == key.namespace);
        if of_namespace.count() as u64 >= cap {
            return Err(StoreError::CapReached {
                namespace: key.namespace,
                cap,
            });
        }
        if record.status.flat {
            if self.flat.contains_key(&key.name) {
                return Err(StoreError::Exists(key.to_string()));
            }
            self.flat.insert(key.name.clone(), key);
        }
        record.header.writes = 0;
        Ok(self.write_actor(record))
    }

    pub(super) fn begin(&mut self, begin: &Begin) -> Result<Begun, StoreError> {
        let now = self.now();
        let mut record = self.actor(&begin.key)?.clone();
        if begin.uid.is_some_and(|uid| uid != record.status.uid) {
            return Err(StoreError::NotFound(begin.key.to_string()));
        }
        let header = &mut record.header;
        let before = header.phase;

        let (edge, preempts) = match begin.edges[before as usize] {
            Edge::Preempt(phase) if header.yields => (Edge::Start(phase), true),
            Edge::Preempt(_) => (Edge::TakeOver, false),
            edge => (edge, false),
        };
        if header.lease.is_some_and(|lease| lease.deadline > now) && !preempts {
            return Ok(Begun::Held { record, now });
        }
        match edge {
            Edge::Start(phase) => {
                header.phase = phase;
                header.operation = header.epoch.next();
                header.boot = begin.boot;
                header.yields = false;
            }
            Edge::TakeOver if before.is_transitional() => header.boot |= begin.boot,
            Edge::TakeOver | Edge::Refuse | Edge::Preempt(_) => {
                return Ok(Begun::Refused { record, now });
            }
        }
        header.epoch = header.epoch.next();
        if header.desired != Desired::Deleted {
            header.desired = begin.desired.unwrap_or(header.desired);
        }
        header.lease = Some(Lease {
            owner: begin.owner,
            deadline: now + begin.lease,
        });
        Ok(Begun::Owned {
            record: self.write_actor(record),
            before,
            now,
        })
    }

    pub(super) fn commit(
        &mut self,
        record: &ActorRecord,
        owner: u64,
    ) -> Result<ActorRecord, StoreError> {
        let mut stored = self.actor(&record.key)?.clone();
        let mut status = record.status.clone();
        let activity = stored.status.last_activity.max(status.last_activity);
        status.last_activity = activity;
        if stored.header.epoch != record.header.epoch {
            return Err(fenced(&record.key));
        }
        let Some(lease) = stored.header.lease else {
            let same = stored.header.phase == record.header.phase
                && stored.header.desired == record.header.desired
                && stored.status == status;
            return if same {
                Ok(stored)
            } else {
                Err(fenced(&record.key))
            };
        };
        if lease.owner != owner {
            return Err(fenced(&record.key));
        }
        stored.header.phase = record.header.phase;
        stored.header.desired = record.header.desired;
        stored.header.lease = Some(lease).filter(|_| record.header.phase.is_transitional());
        stored.header.boot &= record.header.phase.is_transitional();
        stored.header.yields = record.header.yields && record.header.phase.is_transitional();
        stored.status = status;
        Ok(self.write_actor(stored))
    }

    pub(super) fn renew(
        &mut self,
        key: &ActorKey,
        epoch: Epoch,
        owner: u64,
        lease: Duration,
    ) -> Result<(), StoreError> {
        let deadline = self.now() + lease;
        let record = self.owned(key, epoch, owner)?;
        record.header.lease = Some(Lease { owner, deadline });
        Ok(())
    }

    pub(super) fn touch(&mut self, key: &ActorKey, at: Timestamp) -> Result<(), StoreError> {
        let status = &mut self.actor_mut(key)?.status;
        status.last_activity = status.last_activity.max(at);
        Ok(())
    }

    pub(super) fn update_spec(
        &mut self,
        key: &ActorKey,
        expected: ResourceVersion,
        spec: &SpecRecord,
        meta: &MetaRecord,
    ) -> Result<ActorRecord, StoreError> {
        let mut record = self.actor(key)?.clone();
        if record.header.resource_version != expected {
            return Err(StoreError::Conflict(key.to_string()));
        }
        if record.spec == *spec && record.meta == *meta {
            return Ok(record);
        }
        record.spec = spec.clone();
        record.meta = meta.clone();
        Ok(self.write_actor(record))
    }

    pub(super) fn remove_actor(
        &mut self,
        key: &ActorKey,
        epoch: Epoch,
        owner: u64,
    ) -> Result<(), StoreError> {
        self.owned(key, epoch, owner)?;
        let before = self.actors.remove(key);
        self.flat.retain(|_, of| of != key);
        self.tick();
        self.log_actor(before, None);
        Ok(())
    }

    pub(super) fn actors_at(
        &self,
        list: &ListRequest<'_>,
    ) -> Result<Page<ActorRecord>, StoreError> {
        let at = self.version_of(list.at)?;
        let mut actors = self.actors.clone();
        for image in self.undone(Kind::Actor, at) {
            match image {
                (Some(Image::Actor(before)), _) => {
                    actors.insert(before.key.clone(), *before);
                }
                (None, Some(Image::Actor(after))) => {
                    actors.remove(&after.key);
                }
                _ => {}
            }
        }
        let start = list.after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut found = actors
            .range::<ActorKey, _>((start, Bound::Unbounded))
            .map(|(_, record)| record)
            .filter(|r| list.namespace.is_none_or(|ns| r.key.namespace == ns))
            .filter(|r| list.name.is_none_or(|name| r.key.name == name));
        let items: Vec<_> = found.by_ref().take(list.limit.max(1)).cloned().collect();
        let remaining = found.count() as u64;
        Ok(Page {
            next: items
                .last()
                .filter(|_| remaining > 0)
                .map(|r| r.key.clone()),
            items,
            version: at,
            remaining,
        })
    }

    pub(super) fn deletions_due(&self, limit: usize) -> Vec<ActorKey> {
        let due = |r: &&ActorRecord| {
            r.spec.deleted.is_some() && r.meta.finalizers.is_empty() && r.header.lease.is_none()
        };
        let records = self.actors.values().filter(due);
        records.map(|r| r.key.clone()).take(limit).collect()
    }

    pub(super) fn end_leases(&mut self, owner: u64) -> u64 {
        let now = self.now();
        let leases = self
            .actors
            .values_mut()
            .filter_map(|r| r.header.lease.as_mut());
        let theirs =
            leases.filter(|l| l.owner != owner && l.owner >> 32 == owner >> 32 && l.deadline > now);
        theirs.map(|lease| lease.deadline = now).count() as u64
    }

    pub(super) fn expired_leases(&self, limit: usize) -> Expiry {
        let now = self.now();
        let leases = || {
            let records = self.actors.values();
            records.filter_map(|r| Some((&r.key, r.header.lease?.deadline)))
        };
        let expired = leases().filter(|(_, deadline)| *deadline <= now);
        let held = leases().filter(|(_, deadline)| *deadline > now);
        Expiry {
            actors: expired.map(|(key, _)| key.clone()).take(limit).collect(),
            next: held.map(|(_, deadline)| deadline.since(now)).min(),
        }
    }
}
