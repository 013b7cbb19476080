//! The store on Redis or Valkey: one server or a cluster, any version since 7 (7.2 to wait for the disk).
//!
//! `keys` says what lies where, `codec` in which bytes; each operation is one script in `lua/`, called through
//! `client`. `list`, `tail` and `undo` make pages of the state at a version, `log` reads the change log and `feed` fans it out within the process. Nothing of this leaves the room but
//! [`RedisStore`] and [`StoreOptions`].

mod actors;
mod caps;
mod client;
mod codec;
mod documents;
mod durable;
mod feed;
mod keys;
mod link;
mod list;
mod log;
mod loss;
mod nodes;
mod reply;
mod scripts;
mod tail;
mod undo;
mod workers;

#[cfg(test)]
mod tests;

pub use keys::DEFAULT_SHARDS;
pub use scripts::NAMES as SCRIPTS;

use super::{
    Begin, Begun, Change, Changes, ClaimRequest, Document, DocumentChange, Durability, Expiry,
    Kind, ListRequest, Page, Store, StoreError,
};
use crate::api::names::{ActorKey, Build, Epoch, Incarnation, PoolKey, ResourceVersion, WorkerKey};
use crate::api::node::NodeUsage;
use crate::api::record::{ActorRecord, MetaRecord, NodeRecord, SpecRecord, WorkerRecord};
use crate::api::time::Timestamp;
use async_trait::async_trait;
use client::Client;
use documents::Documents;
use feed::Feed;
use log::Records;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use uuid::Uuid;

/// Certificates for a server that speaks TLS, all PEM.
#[derive(Clone)]
pub struct StoreTls {
    /// Roots to trust; `None`: those of the system.
    pub ca: Option<Vec<u8>>,
    /// What we show.
    pub client: Option<ClientCertificate>,
}

/// A certificate and its key, PEM.
#[derive(Clone)]
pub struct ClientCertificate {
    /// The chain.
    pub certificate: Vec<u8>,
    /// The private key.
    pub key: Vec<u8>,
}

/// Where the store is.
#[derive(Clone)]
pub struct StoreOptions {
    /// `redis://[user:password@]host:port`, `rediss://...`, or `redis+unix:///path`. Several only for a cluster.
    pub urls: Vec<String>,
    /// Whether it is a cluster.
    pub cluster: bool,
    /// For `rediss://`, where the system's roots will not do: what counts now. `None` in it: nothing yet, and the store is away
    /// until then.
    pub tls: Option<watch::Receiver<Option<StoreTls>>>,
    /// What our keys begin with.
    pub prefix: String,
    /// Fixed when the installation is made; another number is refused then.
    pub shards: u16,
}

impl StoreOptions {
    /// One server, everything else as it is by default.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            urls: vec![url.into()],
            cluster: false,
            tls: None,
            prefix: "ate".to_owned(),
            shards: DEFAULT_SHARDS,
        }
    }
}

/// The store on Redis or Valkey.
pub struct RedisStore {
    client: Arc<Client>,
    caps: caps::Caps,
    records: Feed<Records>,
    tails: tail::Tails,
    /// By kind.
    documents: Mutex<HashMap<String, Arc<Feed<Documents>>>>,
}

impl RedisStore {
    /// Connects. `Unavailable` when nobody answers, `Corrupt` when the installation there has another format or
    /// another number of shards.
    pub async fn connect(options: StoreOptions) -> Result<Self, StoreError> {
        Ok(Self::of(Client::connect(&options).await?))
    }

    /// Connects, now or as soon as somebody answers; until then every operation is `Unavailable`. Errors are those of
    /// an installation that cannot be used.
    pub async fn connect_in_time(options: StoreOptions) -> Result<Self, StoreError> {
        Ok(Self::of(Client::connect_in_time(&options).await?))
    }

    fn of(client: Arc<Client>) -> Self {
        Self {
            records: Feed::new(Records(client.clone())),
            documents: Mutex::default(),
            caps: caps::Caps::default(),
            tails: tail::Tails::new(client.keys.shards()),
            client,
        }
    }

    fn documents(&self, kind: &str) -> Arc<Feed<Documents>> {
        let mut all = self
            .documents
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let feed = all.entry(kind.to_owned()).or_insert_with(|| {
            let (client, kind) = (self.client.clone(), kind.to_owned());
            Arc::new(Feed::new(Documents { client, kind }))
        });
        feed.clone()
    }

    /// How often callers waited for the server so far.
    pub fn round_trips(&self) -> u64 {
        self.client.round_trips()
    }
}

#[async_trait]
impl Store for RedisStore {
    async fn create_actor(&self, record: ActorRecord, cap: u64) -> Result<ActorRecord, StoreError> {
        actors::create(&self.client, &self.caps, record, cap).await
    }

    async fn get_actor(&self, key: &ActorKey) -> Result<ActorRecord, StoreError> {
        actors::get(&self.client, key).await
    }

    async fn get_flat(&self, id: &str) -> Result<ActorRecord, StoreError> {
        actors::get_flat(&self.client, id).await
    }

    async fn begin(&self, begin: Begin) -> Result<Begun, StoreError> {
        actors::begin(&self.client, begin).await
    }

    async fn commit(
        &self,
        record: &ActorRecord,
        owner: u64,
        durability: Durability,
    ) -> Result<ActorRecord, StoreError> {
        actors::commit(&self.client, record, owner, durability).await
    }

    async fn renew(
        &self,
        key: &ActorKey,
        epoch: Epoch,
        owner: u64,
        lease: Duration,
    ) -> Result<(), StoreError> {
        actors::renew(&self.client, key, epoch, owner, lease).await
    }

    async fn update_spec(
        &self,
        key: &ActorKey,
        expected: ResourceVersion,
        spec: &SpecRecord,
        meta: &MetaRecord,
    ) -> Result<ActorRecord, StoreError> {
        actors::update_spec(&self.client, key, expected, spec, meta).await
    }

    async fn remove_actor(
        &self,
        key: &ActorKey,
        epoch: Epoch,
        owner: u64,
    ) -> Result<(), StoreError> {
        actors::remove(&self.client, key, epoch, owner).await
    }

    async fn actors_at(&self, list: &ListRequest<'_>) -> Result<Page<ActorRecord>, StoreError> {
        let read = || list::actors(&self.client, &self.tails, list);
        log::afresh(list.at, read).await
    }

    async fn end_leases(&self, owner: u64) -> Result<u64, StoreError> {
        actors::end_leases(&self.client, owner).await
    }

    async fn expired_leases(&self, limit: usize) -> Result<Expiry, StoreError> {
        actors::expired_leases(&self.client, limit).await
    }

    async fn deletions_due(&self, limit: usize) -> Result<Vec<ActorKey>, StoreError> {
        actors::deletions_due(&self.client, limit).await
    }

    async fn touch(&self, key: &ActorKey, at: Timestamp) -> Result<(), StoreError> {
        actors::touch(&self.client, key, at).await
    }

    async fn report_worker(&self, worker: &WorkerRecord) -> Result<WorkerRecord, StoreError> {
        workers::report(&self.client, worker).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Option<WorkerRecord>, StoreError> {
        workers::claim(&self.client, request).await
    }

    async fn release(
        &self,
        pool: &PoolKey,
        worker: &WorkerKey,
        actor: Uuid,
        epoch: Epoch,
    ) -> Result<(), StoreError> {
        workers::release(&self.client, pool, worker, actor, epoch).await
    }

    async fn remove_worker(&self, pool: &PoolKey, worker: &WorkerKey) -> Result<(), StoreError> {
        workers::remove(&self.client, pool, worker).await
    }

    async fn list_workers(&self, pool: Option<&PoolKey>) -> Result<Page<WorkerRecord>, StoreError> {
        workers::list(&self.client, pool).await
    }

    async fn workers_at(
        &self,
        at: Option<ResourceVersion>,
    ) -> Result<Page<WorkerRecord>, StoreError> {
        log::afresh(at, || workers::list_at(&self.client, at)).await
    }

    async fn renew_node(
        &self,
        node: &str,
        address: &str,
        runtime: Option<Build>,
        usage: NodeUsage,
        lease: Duration,
    ) -> Result<NodeRecord, StoreError> {
        nodes::renew(&self.client, node, address, runtime, usage, lease).await
    }

    async fn list_nodes(&self) -> Result<(Vec<NodeRecord>, Timestamp), StoreError> {
        nodes::list(&self.client).await
    }

    async fn remove_node(&self, node: &str) -> Result<(), StoreError> {
        nodes::remove(&self.client, node).await
    }

    async fn incarnation(&self) -> Result<Incarnation, StoreError> {
        loss::read_incarnation(&self.client).await
    }

    async fn version(&self) -> Result<ResourceVersion, StoreError> {
        log::raised(&self.client).await
    }

    async fn changes(
        &self,
        kind: Kind,
        after: ResourceVersion,
        limit: usize,
        wait: Duration,
    ) -> Result<Changes<Change>, StoreError> {
        let of_kind = |c: &Change| c.kind() == Some(kind);
        self.records.changes(after, limit, wait, of_kind).await
    }

    async fn get_document(&self, kind: &str, key: &str) -> Result<Option<Document>, StoreError> {
        documents::get(&self.client, kind, key).await
    }

    async fn put_document(
        &self,
        kind: &str,
        key: &str,
        expected: Option<ResourceVersion>,
        body: Option<&str>,
    ) -> Result<ResourceVersion, StoreError> {
        documents::put(&self.client, kind, key, expected, body).await
    }

    async fn list_documents(
        &self,
        kind: &str,
        at: Option<ResourceVersion>,
    ) -> Result<(Vec<Document>, ResourceVersion), StoreError> {
        documents::list(&self.client, kind, at).await
    }

    async fn document_changes(
        &self,
        kind: &str,
        after: ResourceVersion,
        limit: usize,
        wait: Duration,
    ) -> Result<Changes<DocumentChange>, StoreError> {
        let feed = self.documents(kind);
        feed.changes(after, limit, wait, |_| true).await
    }
}
