//! A replica that dies before or after any call of a sequence, and another that finishes it.

use super::fsck;
use crate::api::names::{ActorKey, Epoch, PoolKey, ResourceVersion};
use crate::api::record::{ActorRecord, Desired, Phase, WorkerPhase, WorkerRecord};
use crate::api::time::Timestamp;
use crate::store::conformance::*;
use crate::store::testing::TestServer;
use crate::store::{Begin, Begun, Durability, Edge, RedisStore, Store, StoreError};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const LEASE: Duration = Duration::from_millis(25);

/// What a replica does to an actor, as the calls that it makes. Every sequence can be entered at any point.
#[derive(Clone, Copy, Debug)]
enum Goal {
    Awake,
    Asleep,
    Gone,
}

/// Dies at a call: it happens or it does not, and either way the replica never hears of it.
struct Mortal<'a> {
    store: &'a RedisStore,
    left: AtomicU32,
    happens: bool,
}

#[derive(Debug)]
struct Died;

impl Mortal<'_> {
    async fn call<T>(&self, call: impl Future<Output = T>) -> Result<T, Died> {
        match self.left.fetch_sub(1, Ordering::Relaxed) {
            0 => {
                if self.happens {
                    call.await;
                }
                Err(Died)
            }
            _ => Ok(call.await),
        }
    }

    fn pool() -> PoolKey {
        PoolKey::new("team", "p")
    }

    fn begin(key: &ActorKey, goal: Goal, owner: u64) -> Begin {
        let (to, desired) = match goal {
            Goal::Awake => (Phase::Resuming, Desired::Running),
            Goal::Asleep => (Phase::Suspending, Desired::Suspended),
            Goal::Gone => (Phase::Suspending, Desired::Deleted),
        };
        let edges = Phase::ALL.map(|phase| match (goal, phase) {
            (Goal::Awake, Phase::Running) | (Goal::Asleep, Phase::Suspended) => Edge::Refuse,
            (_, phase) if phase == to => Edge::TakeOver,
            _ => Edge::Start(to),
        });
        Begin {
            key: key.clone(),
            edges,
            desired: Some(desired),
            owner,
            lease: LEASE,
            boot: false,
            uid: None,
        }
    }

    /// Waits for the actor to be this replica's; `None` when there is nothing left to do.
    async fn own(
        &self,
        key: &ActorKey,
        goal: Goal,
        owner: u64,
    ) -> Result<Option<ActorRecord>, Died> {
        let start = std::time::Instant::now();
        loop {
            let begun = self.store.begin(Self::begin(key, goal, owner));
            match self.call(begun).await? {
                Ok(Begun::Owned { record, .. }) => return Ok(Some(record)),
                Ok(Begun::Held { .. }) => {
                    assert!(start.elapsed() < PATIENCE);
                    tokio::time::sleep(LEASE / 5).await;
                }
                Ok(Begun::Refused { .. }) => return Ok(None),
                Err(StoreError::NotFound(_)) if matches!(goal, Goal::Gone) => return Ok(None),
                Err(e) => panic!("{e}"),
            }
        }
    }

    async fn reach(&self, key: &ActorKey, goal: Goal, owner: u64) -> Result<(), Died> {
        let Some(mut record) = self.own(key, goal, owner).await? else {
            return Ok(());
        };
        let epoch = record.header.epoch;
        if matches!(goal, Goal::Awake) {
            self.claim(key, epoch).await?;
            record.header.phase = Phase::Running;
        } else {
            self.settle(key, epoch).await?;
            record.header.phase = Phase::Suspended;
            record.status.durable = Some(snapshot(record.header.operation.0));
        }
        let done = if matches!(goal, Goal::Gone) {
            self.call(self.store.remove_actor(key, epoch, owner))
                .await?
        } else {
            let commit = self.store.commit(&record, owner, Durability::Fsync);
            self.call(commit).await?.map(|_| ())
        };
        done.unwrap();
        Ok(())
    }

    async fn claim(&self, key: &ActorKey, epoch: Epoch) -> Result<WorkerRecord, Died> {
        let request = claim(&Self::pool(), key, epoch.0);
        match self.call(self.store.claim(&request)).await? {
            Ok(worker) => Ok(worker.expect("a worker is free")),
            Err(StoreError::Conflict(_)) => {
                self.settle(key, epoch).await?;
                let claimed = self.call(self.store.claim(&request)).await?;
                Ok(claimed.unwrap().expect("a worker is free"))
            }
            Err(e) => panic!("{e}"),
        }
    }

    /// Gives back what the actor holds.
    async fn settle(&self, key: &ActorKey, epoch: Epoch) -> Result<(), Died> {
        let pool = Self::pool();
        let workers = self.call(self.store.list_workers(Some(&pool))).await?;
        let holds = |w: &WorkerRecord| w.claim.as_ref().is_some_and(|c| c.uid == uid_of(key));
        if let Some(worker) = workers.unwrap().items.into_iter().find(holds) {
            let release = self.store.release(&pool, &worker.key, uid_of(key), epoch);
            self.call(release).await?.unwrap();
        }
        Ok(())
    }
}

/// Dies at the `at`th call; then another replica goes for the same. Returns whether it died at all.
async fn die_and_finish(
    store: &RedisStore,
    key: &ActorKey,
    goal: Goal,
    at: u32,
    happens: bool,
) -> bool {
    let replica = |left| Mortal {
        store,
        left: AtomicU32::new(left),
        happens,
    };
    let died = replica(at).reach(key, goal, ME).await.is_err();
    fsck::check(store).await;
    replica(u32::MAX).reach(key, goal, OTHER).await.unwrap();
    fsck::check(store).await;
    let workers = store.list_workers(None).await.unwrap().items;
    let held = workers.iter().filter(|w| w.claim.is_some()).count();
    match (goal, store.get_actor(key).await) {
        (Goal::Awake, Ok(record)) => {
            assert_eq!((record.header.phase, held), (Phase::Running, 1));
        }
        (Goal::Asleep, Ok(record)) => {
            assert_eq!((record.header.phase, held), (Phase::Suspended, 0));
        }
        (Goal::Gone, Err(StoreError::NotFound(_))) => {
            assert_eq!(held, 0);
            assert!(workers.iter().all(|w| w.phase == WorkerPhase::Free));
        }
        (goal, result) => panic!("{goal:?}: {result:?}"),
    }
    died
}

async fn dies_anywhere(goals: &[Goal]) {
    let server = TestServer::shared();
    for happens in [false, true] {
        for at in 0.. {
            let store = server.store().await;
            let key = ActorKey::new("team", "a");
            store.create_actor(flat("team", "a"), CAP).await.unwrap();
            for name in ["w1", "w2"] {
                let w = worker("team", "p", name, "n1");
                store.report_worker(&w).await.unwrap();
            }
            let mut died = false;
            let (last, before) = goals.split_last().unwrap();
            for goal in before {
                die_and_finish(&store, &key, *goal, u32::MAX, false).await;
            }
            died |= die_and_finish(&store, &key, *last, at, happens).await;
            if !died {
                assert!(at > 1, "a sequence of {at} calls");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_wake_is_finished_by_another() {
    dies_anywhere(&[Goal::Awake]).await;
}

#[tokio::test]
async fn a_suspend_is_finished_by_another() {
    dies_anywhere(&[Goal::Awake, Goal::Asleep]).await;
}

#[tokio::test]
async fn a_removal_is_finished_by_another() {
    dies_anywhere(&[Goal::Awake, Goal::Gone]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn indexes_agree_after_a_storm() {
    for server in [TestServer::shared(), TestServer::shared_cluster()] {
        let store = server.store().await;
        let tasks = (0..4u64).map(|task| storm(&store, task));
        futures::future::join_all(tasks).await;
        fsck::check(&store).await;
    }
}

/// Random calls on few names, so that they meet.
async fn storm(store: &RedisStore, task: u64) {
    use rand::{Rng, SeedableRng};
    let mut rng = rand::rngs::StdRng::seed_from_u64(task);
    let pool = Mortal::pool();
    for _ in 0..250 {
        let name = format!("a{}", rng.random_range(0..6));
        let namespace = ["team", "other"][rng.random_range(0..2)];
        let key = ActorKey::new(namespace, &name);
        let worker = worker("team", "p", &format!("w{}", rng.random_range(0..4)), "n1");
        let epoch = Epoch(rng.random_range(0..9));
        let goal = [Goal::Awake, Goal::Asleep, Goal::Gone][rng.random_range(0..3)];
        // What comes of a single call is for the suite; here only what they leave together counts.
        match rng.random_range(0..8) {
            0 => drop(store.create_actor(flat(namespace, &name), CAP).await),
            1 => drop(store.create_actor(actor(namespace, &name), CAP).await),
            2 => drop(store.report_worker(&worker).await),
            3 => drop(store.remove_worker(&pool, &worker.key).await),
            4 => drop(store.claim(&claim(&pool, &key, epoch.0)).await),
            5 => drop(store.release(&pool, &worker.key, uid_of(&key), epoch).await),
            6 => {
                let meta = actor(namespace, &name).meta;
                let spec = actor(namespace, &name).spec;
                let old = ResourceVersion(1);
                drop(store.update_spec(&key, old, &spec, &meta).await);
                drop(store.touch(&key, Timestamp::now()).await);
            }
            _ => {
                if let Ok(Begun::Owned { mut record, .. }) =
                    store.begin(Mortal::begin(&key, goal, task)).await
                {
                    let epoch = record.header.epoch;
                    record.header.phase = Phase::Suspended;
                    if matches!(goal, Goal::Gone) {
                        drop(store.remove_actor(&key, epoch, task).await);
                    } else if rng.random_bool(0.8) {
                        drop(store.commit(&record, task, Durability::Memory).await);
                    }
                }
            }
        }
    }
}
