//! The store in memory, for tests and simulations: the same behaviour in one process, under one lock, with a clock
//! that a test may set. The suite in `conformance` holds it to what the real one does.

mod actors;
mod log;
mod workers;

use super::{
    Begin, Begun, Change, Changes, ClaimRequest, Document, DocumentChange, Durability, Expiry,
    Kind, ListRequest, Page, Store, StoreError,
};
use crate::api::names::{ActorKey, Build, Epoch, Incarnation, PoolKey, ResourceVersion, WorkerKey};
use crate::api::node::NodeUsage;
use crate::api::record::{ActorRecord, MetaRecord, NodeRecord, SpecRecord, WorkerRecord};
use crate::api::time::Timestamp;
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use uuid::Uuid;

/// Everything that is stored.
#[derive(Clone, Default)]
pub struct State {
    actors: BTreeMap<ActorKey, ActorRecord>,
    flat: BTreeMap<String, ActorKey>,
    workers: BTreeMap<(PoolKey, WorkerKey), WorkerRecord>,
    nodes: BTreeMap<String, NodeRecord>,
    documents: BTreeMap<(String, String), Document>,
    log: Vec<(Kind, Change)>,
    document_log: Vec<(String, DocumentChange)>,
    /// The newest stamp.
    last: u64,
    /// Nothing up to here can be watched from any more.
    lost: u64,
    incarnation: Incarnation,
    /// The clock, when a test sets it.
    time: Option<Timestamp>,
    /// The clock, when a simulation has one.
    clock: Option<Arc<dyn Fn() -> Timestamp + Send + Sync>>,
}

impl State {
    fn now(&self) -> Timestamp {
        let running = || {
            self.clock
                .as_ref()
                .map_or_else(Timestamp::now, |clock| clock())
        };
        self.time.unwrap_or_else(running)
    }

    fn tick(&mut self) -> ResourceVersion {
        let ms = self.now().0.saturating_sub(ResourceVersion::ORIGIN_MS);
        self.last = self.last.max(ms << ResourceVersion::COUNTER_BITS) + 1;
        ResourceVersion::from_tick(self.last, 0)
    }

    /// The version of a list made now.
    fn version(&self) -> ResourceVersion {
        ResourceVersion::from_tick(self.last, (1 << ResourceVersion::SHARD_BITS) - 1)
    }
}

/// The store in memory.
pub struct MemoryStore {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                incarnation: Incarnation(1),
                ..State::default()
            }),
            changed: watch::Sender::new(()),
        }
    }
}

impl MemoryStore {
    /// An empty store by the machine's clock.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store whose clock stands still until it is set.
    pub fn at(time: Timestamp) -> Self {
        let store = Self::default();
        store.set_time(time);
        store
    }

    /// An empty store by the clock of a simulation.
    pub fn by(clock: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        let store = Self::default();
        store.state().clock = Some(Arc::new(clock));
        store
    }

    /// Sets the clock.
    pub fn set_time(&self, time: Timestamp) {
        self.state().time = Some(time);
    }

    /// Moves the clock forward; it stands still from then on.
    pub fn advance(&self, by: Duration) {
        let mut state = self.state();
        state.time = Some(state.now() + by);
    }

    /// Everything as it is now, for [`MemoryStore::restore`].
    pub fn save(&self) -> State {
        self.state().clone()
    }

    /// Loses every write since `saved`: the incarnation is raised, and older versions are expired.
    pub fn restore(&self, saved: State) {
        let mut state = self.state();
        *state = State {
            incarnation: Incarnation(state.incarnation.0 + 1),
            last: state.last + 1,
            lost: state.last + 1,
            time: state.time,
            clock: state.clock.clone(),
            ..saved
        };
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to the state and wakes those who wait for a change.
    fn write<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let result = f(&mut self.state());
        self.changed.send_replace(());
        result
    }

    /// Looks until there is something or the time is up.
    async fn wait_for<T>(
        &self,
        wait: Duration,
        look: impl Fn(&State) -> Result<Changes<T>, StoreError>,
    ) -> Result<Changes<T>, StoreError> {
        let deadline = tokio::time::Instant::now() + wait;
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            let found = look(&self.state())?;
            if !found.items.is_empty() {
                return Ok(found);
            }
            let change = tokio::time::timeout_at(deadline, changed.changed()).await;
            if change.is_err() {
                return Ok(found);
            }
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn create_actor(&self, record: ActorRecord, cap: u64) -> Result<ActorRecord, StoreError> {
        self.write(|state| state.create_actor(record, cap))
    }

    async fn get_actor(&self, key: &ActorKey) -> Result<ActorRecord, StoreError> {
        self.state().actor(key).cloned()
    }

    async fn get_flat(&self, id: &str) -> Result<ActorRecord, StoreError> {
        let state = self.state();
        let key = state.flat.get(id);
        let key = key.ok_or_else(|| StoreError::NotFound(id.to_owned()))?;
        state.actor(key).cloned()
    }

    async fn begin(&self, begin: Begin) -> Result<Begun, StoreError> {
        self.write(|state| state.begin(&begin))
    }

    async fn commit(
        &self,
        record: &ActorRecord,
        owner: u64,
        _: Durability,
    ) -> Result<ActorRecord, StoreError> {
        self.write(|state| state.commit(record, owner))
    }

    async fn renew(
        &self,
        key: &ActorKey,
        epoch: Epoch,
        owner: u64,
        lease: Duration,
    ) -> Result<(), StoreError> {
        self.state().renew(key, epoch, owner, lease)
    }

    async fn update_spec(
        &self,
        key: &ActorKey,
        expected: ResourceVersion,
        spec: &SpecRecord,
        meta: &MetaRecord,
    ) -> Result<ActorRecord, StoreError> {
        self.write(|state| state.update_spec(key, expected, spec, meta))
    }

    async fn remove_actor(
        &self,
        key: &ActorKey,
        epoch: Epoch,
        owner: u64,
    ) -> Result<(), StoreError> {
        self.write(|state| state.remove_actor(key, epoch, owner))
    }

    async fn actors_at(&self, list: &ListRequest<'_>) -> Result<Page<ActorRecord>, StoreError> {
        self.state().actors_at(list)
    }

    async fn end_leases(&self, owner: u64) -> Result<u64, StoreError> {
        Ok(self.state().end_leases(owner))
    }

    async fn expired_leases(&self, limit: usize) -> Result<Expiry, StoreError> {
        Ok(self.state().expired_leases(limit))
    }

    async fn deletions_due(&self, limit: usize) -> Result<Vec<ActorKey>, StoreError> {
        Ok(self.state().deletions_due(limit))
    }

    async fn touch(&self, key: &ActorKey, at: Timestamp) -> Result<(), StoreError> {
        self.state().touch(key, at)
    }

    async fn report_worker(&self, worker: &WorkerRecord) -> Result<WorkerRecord, StoreError> {
        Ok(self.write(|state| state.report_worker(worker)))
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Option<WorkerRecord>, StoreError> {
        self.write(|state| state.claim(request))
    }

    async fn release(
        &self,
        pool: &PoolKey,
        worker: &WorkerKey,
        actor: Uuid,
        epoch: Epoch,
    ) -> Result<(), StoreError> {
        self.write(|state| state.release(pool, worker, actor, epoch));
        Ok(())
    }

    async fn remove_worker(&self, pool: &PoolKey, worker: &WorkerKey) -> Result<(), StoreError> {
        self.write(|state| state.remove_worker(pool, worker));
        Ok(())
    }

    async fn list_workers(&self, pool: Option<&PoolKey>) -> Result<Page<WorkerRecord>, StoreError> {
        Ok(self.state().list_workers(pool))
    }

    async fn workers_at(
        &self,
        at: Option<ResourceVersion>,
    ) -> Result<Page<WorkerRecord>, StoreError> {
        self.state().workers_at(at)
    }

    async fn renew_node(
        &self,
        node: &str,
        address: &str,
        runtime: Option<Build>,
        usage: NodeUsage,
        lease: Duration,
    ) -> Result<NodeRecord, StoreError> {
        let mut state = self.state();
        let record = NodeRecord {
            name: node.to_owned(),
            address: address.to_owned(),
            lease: state.now() + lease,
            runtime,
            usage,
        };
        state.nodes.insert(node.to_owned(), record.clone());
        Ok(record)
    }

    async fn list_nodes(&self) -> Result<(Vec<NodeRecord>, Timestamp), StoreError> {
        let state = self.state();
        Ok((state.nodes.values().cloned().collect(), state.now()))
    }

    async fn remove_node(&self, node: &str) -> Result<(), StoreError> {
        self.state().nodes.remove(node);
        Ok(())
    }

    async fn incarnation(&self) -> Result<Incarnation, StoreError> {
        Ok(self.state().incarnation)
    }

    async fn version(&self) -> Result<ResourceVersion, StoreError> {
        Ok(self.state().version())
    }

    async fn changes(
        &self,
        kind: Kind,
        after: ResourceVersion,
        limit: usize,
        wait: Duration,
    ) -> Result<Changes<Change>, StoreError> {
        self.wait_for(wait, |state| state.changes(kind, after, limit))
            .await
    }

    async fn get_document(&self, kind: &str, key: &str) -> Result<Option<Document>, StoreError> {
        let place = (kind.to_owned(), key.to_owned());
        Ok(self.state().documents.get(&place).cloned())
    }

    async fn put_document(
        &self,
        kind: &str,
        key: &str,
        expected: Option<ResourceVersion>,
        body: Option<&str>,
    ) -> Result<ResourceVersion, StoreError> {
        self.write(|state| state.put_document(kind, key, expected, body))
    }

    async fn list_documents(
        &self,
        kind: &str,
        at: Option<ResourceVersion>,
    ) -> Result<(Vec<Document>, ResourceVersion), StoreError> {
        self.state().documents_at(kind, at)
    }

    async fn document_changes(
        &self,
        kind: &str,
        after: ResourceVersion,
        limit: usize,
        wait: Duration,
    ) -> Result<Changes<DocumentChange>, StoreError> {
        self.wait_for(wait, |state| state.document_changes(kind, after, limit))
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::{ME, created, owned, waking};

    #[tokio::test]
    async fn the_clock_is_the_tests() {
        let start = Timestamp(1_790_000_000_000);
        let store = MemoryStore::at(start);
        let lease = Duration::from_secs(30);
        let stored = created(&store, "team", "a").await;
        owned(&store, waking(&stored.key, ME, lease)).await;
        store.advance(lease - Duration::from_millis(1));
        let expiry = |actors, next| Expiry { actors, next };
        let left = Some(Duration::from_millis(1));
        assert_eq!(store.expired_leases(1).await.unwrap(), expiry(vec![], left));
        store.advance(Duration::from_millis(1));
        let ended = expiry(vec![stored.key], None);
        assert_eq!(store.expired_leases(1).await.unwrap(), ended);
        store.set_time(start);
        let held = expiry(vec![], Some(lease));
        assert_eq!(store.expired_leases(1).await.unwrap(), held);
    }

    #[tokio::test]
    async fn lost_writes_raise_the_incarnation() {
        let store = MemoryStore::new();
        let kept = created(&store, "team", "kept").await;
        let saved = store.save();
        let lost = created(&store, "team", "lost").await;
        store.restore(saved);
        assert_eq!(store.incarnation().await.unwrap(), Incarnation(2));
        store.get_actor(&kept.key).await.unwrap();
        let gone = store.get_actor(&lost.key).await;
        assert!(matches!(gone, Err(StoreError::NotFound(_))));
        for after in [kept, lost] {
            let after = after.header.resource_version;
            let seen = store.changes(Kind::Actor, after, 1, Duration::ZERO).await;
            assert!(matches!(seen, Err(StoreError::Expired(_))));
        }
    }
}
