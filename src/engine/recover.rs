//! What every replica does all the time: finish operations whose owner died, begin deletions that were only marked,
//! settle claims, notice lost nodes.

use super::directory::is_silent;
use super::{Call, DriveError, Engine};
use crate::api::record::{NodeRecord, WorkerPhase};
use crate::api::{ActorKey, Timestamp};
use crate::lifecycle::edges::Intent;
use crate::lifecycle::settle::SKEW;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Pause between two rounds.
const TICK: Duration = Duration::from_millis(500);
/// Expired leases are looked for when the next one ends, as far as is known, and at least so often: others may give shorter
/// ones, and a store that lost writes has other ones.
const LEASES_AT_LEAST: Duration = Duration::from_secs(5);
/// Every so many ticks workers, nodes and marked deletions are looked at as well.
const WORKERS_EVERY: u32 = 8;
/// Operations recovered at the same time.
const AT_ONCE: usize = 16;
/// How long one recovery is waited for; the operation itself goes on.
const RECOVERY_LIMIT: Duration = Duration::from_secs(300);

/// What recovery remembers from round to round.
struct Rounds {
    count: u32,
    /// What an earlier process of this replica left is known.
    succeeded: bool,
    /// When expired leases are looked for next.
    leases: Instant,
}

impl Engine {
    /// Recovers until told to stop; ends at once then, wherever it is. Between any two calls everything can be left to
    /// whoever recovers next, and there may be more to do than a process is given to end.
    pub async fn recover(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let places = Arc::new(Semaphore::new(AT_ONCE));
        let mut rounds = Rounds {
            count: 0,
            succeeded: self.options.replica.is_none(),
            leases: Instant::now(),
        };
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let looked = tokio::select! {
                () = stop.cancelled() => return,
                looked = self.look_around(&mut rounds, &places) => looked,
            };
            if let Err(e) = looked {
                tracing::warn!(error = %e, "recovery could not look around");
            }
            rounds.count = rounds.count.wrapping_add(1);
        }
    }

    async fn look_around(
        self: &Arc<Self>,
        rounds: &mut Rounds,
        places: &Arc<Semaphore>,
    ) -> Result<(), DriveError> {
        if !rounds.succeeded {
            let left = self.store.end_leases(self.owner).await?;
            tracing::info!(
                left,
                "going on with what this replica left when it was last started"
            );
            rounds.succeeded = true;
        }
        if rounds.leases <= Instant::now() {
            rounds.leases = Instant::now() + self.take_over_expired(places).await?;
        }
        if rounds.count.is_multiple_of(WORKERS_EVERY) {
            self.begin_deletions(places).await?;
            self.forget_incarnation();
            self.incarnation().await?;
            let (nodes, now) = self.directory.refresh(&*self.store).await?;
            let named = |wanted: &dyn Fn(&NodeRecord) -> bool| -> Vec<&str> {
                let found = nodes.iter().filter(|n| wanted(n));
                found.map(|n| n.name.as_str()).collect()
            };
            let lost = named(&|n| n.lease + SKEW < now);
            let silent = named(&|n| is_silent(n, self.options.node_lease, now));
            self.settle_workers(&lost, &silent, now).await?;
        }
        Ok(())
    }

    /// Returns after how long there may be others.
    async fn take_over_expired(
        self: &Arc<Self>,
        places: &Arc<Semaphore>,
    ) -> Result<Duration, DriveError> {
        let free = places.available_permits();
        let expiry = self.store.expired_leases(free).await?;
        if !expiry.actors.is_empty() || free == 0 {
            self.take_over_all(expiry.actors, places);
            return Ok(TICK);
        }
        let most = LEASES_AT_LEAST.min(self.options.operation_lease);
        Ok(expiry.next.map_or(most, |next| next.min(most)))
    }

    fn take_over_all(self: &Arc<Self>, actors: Vec<ActorKey>, places: &Arc<Semaphore>) {
        for key in actors {
            let Ok(place) = places.clone().try_acquire_owned() else {
                return;
            };
            let engine = self.clone();
            tokio::spawn(async move {
                engine.take_over(&key).await;
                drop(place);
            });
        }
    }

    async fn take_over(self: &Arc<Self>, key: &ActorKey) {
        tracing::info!(actor = %key, "taking over an operation whose owner is gone");
        match self
            .reach(key, Intent::Recover, Call::within(RECOVERY_LIMIT))
            .await
        {
            Ok(_) | Err(DriveError::NotFound(_) | DriveError::InProgress) => {}
            Err(e) => tracing::warn!(actor = %key, error = %e, "recovery did not end well"),
        }
    }

    async fn begin_deletions(self: &Arc<Self>, places: &Arc<Semaphore>) -> Result<(), DriveError> {
        let due = self.store.deletions_due(places.available_permits()).await?;
        for key in due {
            let Ok(place) = places.clone().try_acquire_owned() else {
                return Ok(());
            };
            let engine = self.clone();
            tokio::spawn(async move {
                if let Err(e) = engine.carry_out_deletion(&key).await {
                    tracing::warn!(actor = %key, error = %e, "a deletion did not end well");
                }
                drop(place);
            });
        }
        Ok(())
    }

    /// Deletes an actor that is marked so: who marked it died before it began, or could not begin.
    async fn carry_out_deletion(self: &Arc<Self>, key: &ActorKey) -> Result<(), DriveError> {
        let Some(actor) = self.find(key).await? else {
            return Ok(());
        };
        if actor.spec.deleted.is_none() || !actor.meta.finalizers.is_empty() {
            return Ok(());
        }
        // The name may be another actor's by now.
        let call = Call::within(RECOVERY_LIMIT).only(actor.status.uid);
        match self.delete(key, call).await {
            Err(DriveError::InProgress) => Ok(()),
            other => other,
        }
    }

    async fn settle_workers(
        self: &Arc<Self>,
        lost: &[&str],
        silent: &[&str],
        now: Timestamp,
    ) -> Result<(), DriveError> {
        for mut worker in self.store.list_workers(None).await?.items {
            let on = |nodes: &[&str]| nodes.contains(&worker.node.as_str());
            let free = worker.phase == WorkerPhase::Free;
            match &worker.claim {
                None if on(lost) => self.store.remove_worker(&worker.pool, &worker.key).await?,
                // Who claimed it would wait for the node until its lease has lapsed. Its next report makes it free again.
                None if on(silent) && free => {
                    worker.phase = WorkerPhase::Lost;
                    self.store.report_worker(&worker).await?;
                }
                None => {}
                Some(_) => self.settle(&worker, now).await?,
            }
        }
        Ok(())
    }
}
