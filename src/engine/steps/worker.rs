//! Steps about workers: claim, release, abandon.

use super::{ASK_AGAIN, CATALOG_LIMIT, Operation, WORKER_LIMIT};
use crate::api::names::{Build, ResourceVersion};
use crate::api::record::{Assignment, Claim, WorkerPhase, WorkerRecord};
use crate::api::{PoolKey, Reason, Timestamp};
use crate::engine::DriveError;
use crate::lifecycle::Observed;
use crate::lifecycle::placement::{self, Source};
use crate::lifecycle::runtimes;
use crate::store::{Change, ClaimRequest, Image, Kind, StoreError};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Changes of workers looked at together while one is waited for.
const CHANGES: usize = 100;

/// What was seen of the pools' workers.
enum Look {
    /// There are fewer than there shall be; with the version of the list.
    Short(ResourceVersion),
    /// All are there, and one is free.
    Free,
    /// All are there, and none is free.
    Full,
}

fn is_free(worker: &WorkerRecord, pools: &[PoolKey]) -> bool {
    worker.phase == WorkerPhase::Free && worker.claim.is_none() && pools.contains(&worker.pool)
}

impl Operation {
    pub(super) async fn find_claim(&mut self) -> Result<(), DriveError> {
        let workers = self.engine.store.list_workers(None).await?.items;
        let held = workers.into_iter().find(|w| {
            w.claim
                .as_ref()
                .is_some_and(|c| c.uid == self.record.status.uid)
        });
        match held {
            Some(worker) => {
                self.assign(&worker);
                self.progress.inherited = true;
                self.progress.sandbox = Observed::Unknown;
            }
            None => {
                self.progress.claim = Observed::Absent;
                self.progress.sandbox = Observed::Absent;
            }
        }
        Ok(())
    }

    pub(super) async fn claim(&mut self) -> Result<(), DriveError> {
        self.know_template().await;
        let source = placement::start(&self.record, self.template.as_deref());
        let (template, source) = match (self.template.clone(), source) {
            (Some(template), Ok(source)) => (template, source),
            (_, Err((reason, message))) => {
                self.fail(reason, message);
                return Ok(());
            }
            (None, Ok(_)) => return Err(DriveError::InProgress),
        };
        let catalog = self.engine.catalog.pools();
        let pools =
            match placement::pools(&self.record, &template, catalog.iter().map(AsRef::as_ref)) {
                Ok(pools) => pools,
                Err(e) => {
                    self.fail(Reason::PoolNotFound, e.to_string());
                    return Ok(());
                }
            };
        if pools.is_empty() {
            self.fail(
                Reason::PoolNotFound,
                format!(
                    "no WorkerPool matches ActorTemplate {}",
                    self.record.spec.template
                ),
            );
            return Ok(());
        }
        let usual = self.engine.options.room;
        let large =
            placement::large_enough(pools, &template, catalog.iter().map(AsRef::as_ref), usual);
        let pools = match large {
            Ok(pools) => pools,
            Err((reason, message)) => {
                self.fail(reason, message);
                return Ok(());
            }
        };
        let holder = match source {
            Source::Local { node, .. } => Some(node),
            Source::Durable { .. } | Source::Golden { .. } | Source::Boot => None,
        };
        let wanted = runtimes::wanted(&self.record, &template);
        let nodes = self.nodes_with(wanted.as_ref(), holder.as_deref()).await?;
        match self.claim_of(&pools, nodes).await {
            Ok(Some(worker)) => {
                self.assign(&worker);
                self.progress.sandbox = Observed::Absent;
            }
            Ok(None) if holder.is_some() => self.publish().await?,
            Ok(None) => self.await_worker(&pools, wanted.as_ref()).await?,
            // An earlier operation has not released its worker yet.
            Err(StoreError::Conflict(_)) => self.progress.claim = Observed::Unknown,
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }

    /// The nodes that have a build of `wanted`, of `holder` alone where there is one. `None`: any node.
    async fn nodes_with(
        &self,
        wanted: Option<&BTreeSet<Build>>,
        holder: Option<&str>,
    ) -> Result<Option<Vec<String>>, StoreError> {
        let Some(wanted) = wanted else {
            return Ok(holder.map(|node| vec![node.to_owned()]));
        };
        let (directory, store) = (&self.engine.directory, &*self.engine.store);
        let since = match self.misled {
            true => Timestamp::default(),
            false => self.now(),
        };
        let nodes = directory.with_runtime(store, wanted, since).await?;
        let Some(holder) = holder else {
            return Ok(nodes);
        };
        let fits = nodes.is_none_or(|nodes| nodes.iter().any(|n| n == holder));
        Ok(Some(fits.then(|| holder.to_owned()).into_iter().collect()))
    }

    /// Whether a worker's node has a build of `wanted`, as far as is known.
    fn suits(&self, worker: &WorkerRecord, wanted: Option<&BTreeSet<Build>>) -> bool {
        let on = self.engine.directory.runtime(&worker.node);
        wanted.is_none_or(|wanted| runtimes::fits(on, wanted))
    }

    /// No worker is free. Where some are on their way, after a start or a loss, the claim is tried again when one has
    /// come; pools that are complete refuse at once.
    async fn await_worker(
        &mut self,
        pools: &[PoolKey],
        wanted: Option<&BTreeSet<Build>>,
    ) -> Result<(), DriveError> {
        let until = *self
            .worker_until
            .get_or_insert_with(|| Instant::now() + WORKER_LIMIT);
        let left = until.saturating_duration_since(Instant::now());
        let goes_on = match self.seen_workers.take() {
            None => match self.look_at(pools, wanted).await? {
                // What has come before this list was read is found by the claim that follows.
                Look::Short(version) => {
                    self.seen_workers = Some(version);
                    !left.is_zero()
                }
                // It came after the claim had looked. Once only: it may be one that cannot be claimed.
                Look::Free => !std::mem::replace(&mut self.overtaken, true),
                Look::Full => false,
            },
            Some(seen) => self.worker_came(pools, wanted, seen, left).await?,
        };
        if !goes_on {
            let (reason, message) = self.why_none(pools, wanted).await?;
            self.fail(reason, message);
        }
        Ok(())
    }

    /// Why no worker can be had: those that would do are taken, or there are none.
    async fn why_none(
        &self,
        pools: &[PoolKey],
        wanted: Option<&BTreeSet<Build>>,
    ) -> Result<(Reason, String), DriveError> {
        let full = (
            Reason::NoFreeWorkers,
            "no free workers available".to_owned(),
        );
        // A golden actor of one build: who takes it knows which workers there are.
        let Some(wanted) = wanted.filter(|_| !self.record.header.boot) else {
            return Ok(full);
        };
        let workers = self.engine.store.list_workers(None).await?.items;
        let of_pools = || workers.iter().filter(|w| pools.contains(&w.pool));
        if of_pools().all(|w| !self.suits(w, Some(wanted))) && of_pools().next().is_some() {
            let directory = &self.engine.directory;
            let there = of_pools().filter_map(|w| directory.runtime(&w.node));
            return Ok(runtimes::mismatch(&self.record, wanted, &there.collect()));
        }
        Ok(full)
    }

    /// Looks at the workers of the pools after a claim that found none.
    async fn look_at(
        &self,
        pools: &[PoolKey],
        wanted: Option<&BTreeSet<Build>>,
    ) -> Result<Look, DriveError> {
        let only = match pools {
            [pool] => Some(pool),
            _ => None,
        };
        let workers = self.engine.store.list_workers(only).await?;
        let all = self.engine.catalog.pools();
        let short = |pool: &Arc<_>| placement::is_short(pool, pools, &workers.items);
        Ok(if all.iter().any(short) {
            Look::Short(workers.version)
        } else if workers
            .items
            .iter()
            .any(|w| is_free(w, pools) && self.suits(w, wanted))
        {
            Look::Free
        } else {
            Look::Full
        })
    }

    /// Waits until a worker of the pools becomes free; `false` when none did in time.
    async fn worker_came(
        &self,
        pools: &[PoolKey],
        wanted: Option<&BTreeSet<Build>>,
        mut seen: ResourceVersion,
        left: Duration,
    ) -> Result<bool, DriveError> {
        let until = Instant::now() + left;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let store = &self.engine.store;
            let changes = store.changes(Kind::Worker, seen, CHANGES, left).await;
            let changes = match changes {
                Ok(changes) => changes,
                // The log does not reach back so far: look at everything again.
                Err(StoreError::Expired(_)) => return Ok(true),
                Err(e) => return Err(e.into()),
            };
            let freed = |change: &Arc<Change>| match &change.after {
                Some(Image::Worker(w)) => is_free(w, pools) && self.suits(w, wanted),
                Some(Image::Actor(_)) | None => false,
            };
            if changes.items.iter().any(freed) {
                return Ok(true);
            }
            if Instant::now() >= until {
                return Ok(false);
            }
            seen = changes.upto;
        }
    }

    /// Looks the template up; after a start the cache may have to fill first.
    pub(super) async fn know_template(&mut self) {
        let catalog = self.engine.catalog.clone();
        let filled = async {
            while !catalog.is_synced() {
                tokio::time::sleep(ASK_AGAIN / 5).await;
            }
        };
        // Pools are cached beside templates: one that is known does not say that they are.
        let filled = tokio::time::timeout(CATALOG_LIMIT, filled).await.is_ok();
        if self.template.is_none() && filled {
            self.template = catalog.template(&self.record.spec.template);
        }
    }

    /// A free worker of the first pool that has one; only on `nodes` if given.
    async fn claim_of(
        &self,
        pools: &[PoolKey],
        nodes: Option<Vec<String>>,
    ) -> Result<Option<WorkerRecord>, StoreError> {
        if nodes.as_ref().is_some_and(Vec::is_empty) {
            return Ok(None);
        }
        let deadline = self.now() + self.engine.options.operation_lease;
        for pool in pools {
            let request = ClaimRequest {
                pool: pool.clone(),
                claim: Claim {
                    actor: self.record.key.clone(),
                    uid: self.record.status.uid,
                    epoch: self.epoch(),
                    deadline,
                },
                nodes: nodes.clone(),
            };
            if let Some(worker) = self.engine.store.claim(&request).await? {
                return Ok(Some(worker));
            }
        }
        Ok(None)
    }

    pub(super) fn assign(&mut self, worker: &WorkerRecord) {
        self.progress.claim = Observed::Known(worker.key.clone());
        self.held = Some(Assignment {
            worker: worker.key.clone(),
            uid: worker.uid.clone(),
            pool: worker.pool.clone(),
            node: worker.node.clone(),
            ip: worker.ip.clone(),
            address: String::new(),
        });
        self.record.status.assignment = self.held.clone();
    }

    /// Where the claimed worker is. A plan that needs one without having one is a bug.
    pub(super) fn held(&self) -> Result<Assignment, DriveError> {
        self.held.clone().ok_or(DriveError::InProgress)
    }

    pub(super) async fn release(&mut self) -> Result<(), DriveError> {
        let held = self.held()?;
        self.give_back(&held).await?;
        self.let_go();
        Ok(())
    }

    pub(super) async fn abandon(&mut self) -> Result<(), DriveError> {
        let held = self.held()?;
        self.forget_worker(&held).await?;
        self.fail(
            Reason::NodeLost,
            format!("node {} of worker {} is lost", held.node, held.worker),
        );
        self.let_go();
        Ok(())
    }

    /// The claimed worker's slot does not exist any more: it ran nothing for us, and another worker is tried.
    pub(super) async fn worker_gone(&mut self, message: &str) -> Result<(), DriveError> {
        let held = self.held()?;
        tracing::info!(worker = %held.worker, message, "claimed a worker that is gone; trying another");
        self.forget_worker(&held).await?;
        self.let_go();
        Ok(())
    }

    /// Only what nobody claims is removed: somebody else may hold it by now.
    async fn forget_worker(&self, held: &Assignment) -> Result<(), StoreError> {
        self.give_back(held).await?;
        let store = &self.engine.store;
        store.remove_worker(&held.pool, &held.worker).await
    }

    async fn give_back(&self, held: &Assignment) -> Result<(), StoreError> {
        let (store, actor) = (&self.engine.store, self.record.status.uid);
        store
            .release(&held.pool, &held.worker, actor, self.epoch())
            .await
    }

    pub(super) fn let_go(&mut self) {
        self.progress.claim = Observed::Absent;
        self.progress.sandbox = Observed::Absent;
        self.progress.node_lost = false;
        self.progress.inherited = false;
        self.record.status.assignment = None;
        self.held = None;
    }
}
