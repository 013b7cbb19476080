//! A replica's way to the store: it may die before or after any call, and calls may fail without saying whether they
//! happened. After each call the invariants are looked at.

use super::audit;
use super::world::{Guards, World};
use crate::api::names::{ActorKey, Build, Epoch, Incarnation, PoolKey, ResourceVersion, WorkerKey};
use crate::api::node::NodeUsage;
use crate::api::record::{ActorRecord, MetaRecord, NodeRecord, Phase, SpecRecord, WorkerRecord};
use crate::api::time::Timestamp;
use crate::store::memory::MemoryStore;
use crate::store::*;
use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;
use rand::Rng;
use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::sleep;
use uuid::Uuid;

/// A task that is not scheduled, or a machine that sleeps, goes on after so many milliseconds at most: longer than any
/// lease.
const LONGEST_STALL: u64 = 12_000;

/// What happens just before a call, by the call's name.
type Event = (&'static str, BoxFuture<'static, ()>);

/// The life of a replica's process. What is called after its end never returns.
#[derive(Clone)]
pub struct Life {
    pub name: String,
    pub world: World,
    /// The calls of the store, by name.
    pub calls: Arc<Mutex<Vec<&'static str>>>,
    /// What happens just before the next call of that name.
    meanwhile: Arc<Mutex<Option<Event>>>,
    dead: Arc<AtomicBool>,
    /// Calls until it dies; negative: it is in good health.
    fuse: Arc<AtomicI64>,
    /// It dies when the call has happened, not before.
    after: Arc<AtomicBool>,
}

impl Life {
    pub fn new(name: String, world: World) -> Life {
        Life {
            name,
            world,
            calls: Arc::default(),
            meanwhile: Arc::default(),
            dead: Arc::default(),
            fuse: Arc::new(AtomicI64::new(-1)),
            after: Arc::default(),
        }
    }

    /// Lets something happen just before the next call of that name.
    pub fn before_next(
        &self,
        call: &'static str,
        happens: impl Future<Output = ()> + Send + 'static,
    ) {
        *self.meanwhile.lock().expect("nobody panics") = Some((call, happens.boxed()));
    }

    async fn meanwhile(&self, call: &str) {
        let happens = {
            let mut next = self.meanwhile.lock().expect("nobody panics");
            next.take_if(|(name, _)| *name == call)
        };
        if let Some((_, happens)) = happens {
            happens.await;
        }
    }

    /// Dies at one of the next calls.
    pub fn end_soon(&self) {
        let mut state = self.world.lock();
        self.after.store(state.rng.random_bool(0.5), Relaxed);
        self.fuse.store(state.rng.random_range(0..10), Relaxed);
    }

    /// Dies at the call that comes after so many others.
    pub fn end_after(&self, calls: i64) {
        self.after.store(false, Relaxed);
        self.fuse.store(calls, Relaxed);
    }

    /// Dies.
    pub fn end(&self) {
        self.dead.store(true, Relaxed);
    }

    pub fn is_over(&self) -> bool {
        self.dead.load(Relaxed)
    }

    async fn end_here(&self, what: &str) {
        self.world.note(|| format!("{} dies at {what}", self.name));
        self.world.lock().crashes += 1;
        self.end();
        std::future::pending().await
    }

    /// Returns whether it dies after this call.
    pub async fn before_call(&self, what: &str) -> bool {
        if self.is_over() {
            std::future::pending::<()>().await;
        }
        let left = self.fuse.load(Relaxed);
        if left > 0 {
            self.fuse.store(left - 1, Relaxed);
        }
        if left == 0 && !self.after.load(Relaxed) {
            self.end_here(what).await;
        }
        left == 0
    }

    pub async fn after_call(&self, dies: bool) {
        let stall = {
            let mut state = self.world.lock();
            let p = if state.calm {
                0.0
            } else {
                state.storm * state.guards.stalls()
            };
            state
                .chance(p)
                .then(|| Duration::from_millis(state.rng.random_range(0..LONGEST_STALL)))
        };
        if let Some(stall) = stall {
            self.world
                .note(|| format!("{} stalls for {} ms", self.name, stall.as_millis()));
            sleep(stall).await;
        }
        if self.is_over() {
            std::future::pending::<()>().await;
        }
        if dies {
            self.end_here("the end of a call").await;
        }
    }
}

/// A replica's way to the store.
pub struct Mortal {
    pub inner: Arc<MemoryStore>,
    pub life: Life,
}

/// Whether an answer says that nothing was done.
fn changed_nothing<T: 'static>(answer: &T) -> bool {
    let begun = (answer as &dyn Any).downcast_ref::<Begun>();
    matches!(begun, Some(Begun::Held { .. } | Begun::Refused { .. }))
}

fn unavailable<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable("by chance".into()))
}

/// Calls that change nothing that is audited.
const QUIET: [&str; 11] = [
    "end_leases",
    "deletions_due",
    "changes",
    "renew",
    "expired_leases",
    "list_workers",
    "list_nodes",
    "incarnation",
    "get_actor",
    "renew_node",
    "report_worker",
];

impl Mortal {
    async fn call<T: 'static>(
        &self,
        what: &'static str,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let world = &self.life.world;
        self.life.calls.lock().expect("nobody panics").push(what);
        self.life.meanwhile(what).await;
        let dies = self.life.before_call(what).await;
        sleep(world.moment(3)).await;
        let (fails, happens) = {
            let mut state = world.lock();
            let p = if state.calm { 0.0 } else { state.storm / 8.0 };
            (state.chance(p), state.chance(0.5))
        };
        if fails && !happens {
            self.life.after_call(dies).await;
            return unavailable();
        }
        let result = call.await;
        if !QUIET.contains(&what) && !matches!(&result, Ok(answer) if changed_nothing(answer)) {
            let how = match &result {
                Ok(_) => "ok".to_owned(),
                Err(e) => format!("{e:?}"),
            };
            world.note(|| format!("{}: store.{what}: {how}", self.life.name));
            audit::records(world, &self.inner).await;
        }
        self.life.after_call(dies).await;
        if fails { unavailable() } else { result }
    }

    fn guards(&self) -> Guards {
        self.life.world.lock().guards
    }
}

macro_rules! forward {
    ({ $($special:item)* } $($name:ident($($arg:ident: $ty:ty),*) -> $out:ty;)*) => {
        #[async_trait]
        impl Store for Mortal {
            $($special)*
            $(async fn $name(&self, $($arg: $ty),*) -> Result<$out, StoreError> {
                self.call(stringify!($name), self.inner.$name($($arg),*)).await
            })*
        }
    };
}

forward! {
    {
        async fn begin(&self, mut begin: Begin) -> Result<Begun, StoreError> {
            if self.guards() == Guards::NoYielding {
                begin.edges = begin.edges.map(|edge| match edge {
                    Edge::Preempt(phase) => Edge::Start(phase),
                    edge => edge,
                });
            }
            let begun = self.call("begin", self.inner.begin(begin)).await?;
            if let Begun::Owned { record, before, .. } = &begun {
                let from_spool = (*before, record.header.phase) == (Phase::Suspending, Phase::Resuming);
                self.life.world.lock().cut_short += u64::from(from_spool);
            }
            Ok(begun)
        }

        async fn commit(
            &self,
            record: &ActorRecord,
            owner: u64,
            durability: Durability,
        ) -> Result<ActorRecord, StoreError> {
            let mut record = record.clone();
            let mut owner = owner;
            if self.guards() == Guards::NoOwners
                && let Ok(now) = self.inner.get_actor(&record.key).await
                && let Some(lease) = now.header.lease
            {
                record.header.epoch = now.header.epoch;
                owner = lease.owner;
            }
            self.call("commit", self.inner.commit(&record, owner, durability)).await
        }

        async fn release(
            &self,
            pool: &PoolKey,
            worker: &WorkerKey,
            actor: Uuid,
            epoch: Epoch,
        ) -> Result<(), StoreError> {
            let epoch = if self.guards() == Guards::NoClaimEpochs { Epoch(u64::MAX) } else { epoch };
            self.call("release", self.inner.release(pool, worker, actor, epoch)).await
        }

        async fn expired_leases(&self, limit: usize) -> Result<Expiry, StoreError> {
            let limit = if self.guards() == Guards::NoTakeOver { 0 } else { limit };
            self.call("expired_leases", self.inner.expired_leases(limit)).await
        }

        async fn end_leases(&self, owner: u64) -> Result<u64, StoreError> {
            if self.guards() == Guards::NoTakeOver {
                return Ok(0);
            }
            self.call("end_leases", self.inner.end_leases(owner)).await
        }

        async fn list_nodes(&self) -> Result<(Vec<NodeRecord>, Timestamp), StoreError> {
            let (mut nodes, now) = self.call("list_nodes", self.inner.list_nodes()).await?;
            if self.guards() == Guards::NoWaiting {
                for node in &mut nodes {
                    node.lease.0 -= 5_000;
                }
            }
            Ok((nodes, now))
        }
    }
    create_actor(record: ActorRecord, cap: u64) -> ActorRecord;
    get_actor(key: &ActorKey) -> ActorRecord;
    get_flat(id: &str) -> ActorRecord;
    renew(key: &ActorKey, epoch: Epoch, owner: u64, lease: Duration) -> ();
    update_spec(key: &ActorKey, expected: ResourceVersion, spec: &SpecRecord, meta: &MetaRecord) -> ActorRecord;
    remove_actor(key: &ActorKey, epoch: Epoch, owner: u64) -> ();
    list_actors(namespace: Option<&str>, after: Option<&ActorKey>, limit: usize) -> Page<ActorRecord>;
    deletions_due(limit: usize) -> Vec<ActorKey>;
    actors_at(list: &ListRequest<'_>) -> Page<ActorRecord>;
    touch(key: &ActorKey, at: Timestamp) -> ();
    report_worker(worker: &WorkerRecord) -> WorkerRecord;
    claim(request: &ClaimRequest) -> Option<WorkerRecord>;
    remove_worker(pool: &PoolKey, worker: &WorkerKey) -> ();
    list_workers(pool: Option<&PoolKey>) -> Page<WorkerRecord>;
    workers_at(at: Option<ResourceVersion>) -> Page<WorkerRecord>;
    renew_node(node: &str, address: &str, runtime: Option<Build>, usage: NodeUsage, lease: Duration) -> NodeRecord;
    remove_node(node: &str) -> ();
    incarnation() -> Incarnation;
    version() -> ResourceVersion;
    changes(kind: Kind, after: ResourceVersion, limit: usize, wait: Duration) -> Changes<Change>;
    get_document(kind: &str, key: &str) -> Option<Document>;
    put_document(kind: &str, key: &str, expected: Option<ResourceVersion>, body: Option<&str>) -> ResourceVersion;
    list_documents(kind: &str, at: Option<ResourceVersion>) -> (Vec<Document>, ResourceVersion);
    document_changes(kind: &str, after: ResourceVersion, limit: usize, wait: Duration) -> Changes<DocumentChange>;
}
