//! The store: actors, workers, claims, nodes and the change log on Redis or Valkey.
//!
//! One implementation behind [`Store`] (`redis`), and one in memory for tests, under one conformance suite
//! (`conformance`). No operation touches two shards and each is atomic on the server; what spans shards is a
//! sequence that any replica can finish. Nothing here decides anything about an actor: the caller says which
//! phases may become which, the store makes sure that nobody else moved first.

pub mod redis;

#[cfg(test)]
pub mod conformance;
#[cfg(test)]
pub mod memory;
#[cfg(test)]
pub mod testing;

pub use redis::{ClientCertificate, RedisStore, StoreOptions, StoreTls};

use crate::api::names::{ActorKey, Build, Epoch, Incarnation, PoolKey, ResourceVersion, WorkerKey};
use crate::api::node::NodeUsage;
use crate::api::record::{
    ActorRecord, Claim, Desired, MetaRecord, NodeRecord, Phase, SpecRecord, WorkerRecord,
};
use crate::api::time::Timestamp;
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// What a caller can do about it: `Unavailable` retry; `Conflict`, `Fenced` read again; `Exists`, `NotFound`,
/// `CapReached` tell the user; `Expired` list again; `Corrupt` is a bug or a foreign hand.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store did not answer, or not in time. Whether a write happened is unknown.
    #[error("the store is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Created already.
    #[error("{0} already exists")]
    Exists(String),
    /// Not there.
    #[error("{0} not found")]
    NotFound(String),
    /// Changed since it was read.
    #[error("{0} has been modified; read it again")]
    Conflict(String),
    /// Another operation took the actor over.
    #[error("another operation has taken {0} over")]
    Fenced(String),
    /// The namespace is full.
    #[error(
        "exceeded quota: namespace {namespace} has its {cap} actors, and may have no more; delete some first"
    )]
    CapReached {
        /// The namespace.
        namespace: String,
        /// Its cap.
        cap: u64,
    },
    /// The log no longer reaches back that far.
    #[error("resource version {} is too old: {}", .0.version, .0.why)]
    Expired(Expired),
    /// A record that cannot be read.
    #[error("{what} cannot be read: {why}")]
    Corrupt {
        /// Which record.
        what: String,
        /// What is wrong with it.
        why: String,
    },
}

/// A version that the log does not reach back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    /// Which.
    pub version: ResourceVersion,
    /// Why not.
    pub why: Gone,
}

/// Why a part of the log is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// It became too long.
    Trimmed,
    /// The store lost writes, and somebody who had seen them noticed.
    Lost,
    /// The store was started with less than it may have told before.
    Forgotten,
    /// The store never came to that version.
    Never,
    /// Writes came faster than they could be read.
    Outrun,
}

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Trimmed => "the log was trimmed past it",
            Self::Lost => "the store lost writes since",
            Self::Forgotten => "the store was started again without it",
            Self::Never => "the store never came to it",
            Self::Outrun => "writes came faster than they could be read",
        })
    }
}

impl Gone {
    /// The error of a version.
    pub fn at(self, version: ResourceVersion) -> StoreError {
        StoreError::Expired(Expired { version, why: self })
    }
}

pub use crate::lifecycle::edges::Edge;

/// An attempt to own an actor.
#[derive(Clone, Debug)]
pub struct Begin {
    /// The actor.
    pub key: ActorKey,
    /// What to do in each phase, in the order of [`Phase::ALL`]. On a start `operation` becomes the new epoch; on a
    /// takeover it stays.
    pub edges: [Edge; 6],
    /// What is wanted from now on; `None` leaves it. Written only when an edge is taken, and never over `Deleted`:
    /// deletion is final.
    pub desired: Option<Desired>,
    /// The caller: its upper half is the replica, which keeps it when it is started again, its lower half the process.
    pub owner: u64,
    /// How long the caller owns the actor.
    pub lease: Duration,
    /// The transition that starts, or is taken over, starts from the image. A takeover does not unsay it.
    pub boot: bool,
    /// Only the actor with this uid: another one of the same name is `NotFound`.
    pub uid: Option<Uuid>,
}

/// What `begin` found or did. All carry the record as it is now.
#[derive(Clone, Debug)]
pub enum Begun {
    /// The caller owns the actor: the epoch was raised.
    Owned {
        /// As it is now.
        record: ActorRecord,
        /// The phase before.
        before: Phase,
        /// The store's clock.
        now: Timestamp,
    },
    /// An operation owns it and its lease holds; whatever the edge, unless that preempts and the operation yields. The lease's owner may be the caller itself: then
    /// an earlier begin of its own took effect and its reply was lost, or another task of this process is at it.
    Held {
        /// As it is now.
        record: ActorRecord,
        /// The store's clock.
        now: Timestamp,
    },
    /// The edge for its phase is `Refuse`.
    Refused {
        /// As it is now.
        record: ActorRecord,
        /// The store's clock.
        now: Timestamp,
    },
}

/// A claim wanted on any worker of a pool.
#[derive(Clone, Debug)]
pub struct ClaimRequest {
    /// The pool.
    pub pool: PoolKey,
    /// Who claims, since which epoch, until when. A deadline that has passed by the store's clock is refused with `Fenced`.
    pub claim: Claim,
    /// Only on one of these nodes, which are looked at in this order; `None`: on any.
    pub nodes: Option<Vec<String>>,
}

/// How much of an acknowledgement waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Return when the server's memory has it (activity, resume).
    Memory,
    /// Return when the append-only file is synced (create, suspend, pause, delete).
    Fsync,
}

/// Leases that have expired.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expiry {
    /// Whose they were.
    pub actors: Vec<ActorKey>,
    /// How long the first of those lasts that still hold; `None` where there are none.
    pub next: Option<Duration>,
}

/// Which kind a log entry or a watch is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Actors.
    Actor,
    /// Workers.
    Worker,
}

/// A record before or after a change.
#[derive(Clone, Debug, PartialEq)]
pub enum Image {
    /// An actor.
    Actor(Box<ActorRecord>),
    /// A worker.
    Worker(Box<WorkerRecord>),
}

/// One entry of the change log. `before` is absent at creation, `after` at removal.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Its place in the log.
    pub version: ResourceVersion,
    /// The record before.
    pub before: Option<Image>,
    /// The record after.
    pub after: Option<Image>,
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Page<T> {
    /// In the order of namespace and name.
    pub items: Vec<T>,
    /// The page is the state at this version, and a watch from here shows every change that is not in it, and no other.
    /// (What changes without a new version, activity and leases, may be newer.)
    pub version: ResourceVersion,
    /// Where the next page starts; `None` at the end.
    pub next: Option<ActorKey>,
    /// Items that follow this page at its version.
    pub remaining: u64,
}

impl Page<WorkerRecord> {
    /// All workers that there are: nothing follows.
    fn of_workers(mut items: Vec<WorkerRecord>, version: ResourceVersion) -> Self {
        items.sort_by(|a, b| a.key.cmp(&b.key));
        Self {
            items,
            version,
            next: None,
            remaining: 0,
        }
    }
}

impl Change {
    /// What it is about.
    pub fn kind(&self) -> Option<Kind> {
        let image = self.after.as_ref().or(self.before.as_ref())?;
        Some(match image {
            Image::Actor(_) => Kind::Actor,
            Image::Worker(_) => Kind::Worker,
        })
    }
}

/// A piece of the change log.
#[derive(Clone, Debug, PartialEq)]
pub struct Changes<T> {
    /// In order.
    pub items: Vec<Arc<T>>,
    /// Nothing is missing up to here: go on from it.
    pub upto: ResourceVersion,
}

/// Which actors are listed, and as of when.
#[derive(Clone, Copy, Debug)]
pub struct ListRequest<'a> {
    /// Only those of a namespace.
    pub namespace: Option<&'a str>,
    /// Only the one of this name; asks for a namespace.
    pub name: Option<&'a str>,
    /// Only those after a key.
    pub after: Option<&'a ActorKey>,
    /// At most so many, and never more than a thousand.
    pub limit: usize,
    /// The state at this version; `None`: the newest.
    pub at: Option<ResourceVersion>,
}

/// The operations. Every method is cancel-safe in the sense that a dropped call either happened or did not.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    // ---- actors

    /// Adds an actor, waiting for the disk. `cap` bounds the actors of its namespace. The same uid again is the same
    /// call again and succeeds. A `flat` one takes the flat id that equals its
    /// name as well; `Exists` if either is taken. Returns the record with its stamps.
    async fn create_actor(&self, record: ActorRecord, cap: u64) -> Result<ActorRecord, StoreError>;
    /// Reads an actor; `NotFound` if there is none.
    async fn get_actor(&self, key: &ActorKey) -> Result<ActorRecord, StoreError>;
    /// Reads the actor with a flat id; `NotFound` if there is none.
    async fn get_flat(&self, id: &str) -> Result<ActorRecord, StoreError>;
    /// Fences and reads in one step.
    async fn begin(&self, begin: Begin) -> Result<Begun, StoreError>;
    /// The owner writes phase, desired, whether it yields, assignment and status; spec and meta stay as they are in the store. With a
    /// phase that is not transitional the lease, `boot` and `yields` end. `Fenced` when epoch or owner differ. The same commit again, with
    /// nothing in between, succeeds without a new version.
    async fn commit(
        &self,
        record: &ActorRecord,
        owner: u64,
        durability: Durability,
    ) -> Result<ActorRecord, StoreError>;
    /// Extends the owner's lease. `Fenced` when epoch or owner differ. No new resource version.
    async fn renew(
        &self,
        key: &ActorKey,
        epoch: Epoch,
        owner: u64,
        lease: Duration,
    ) -> Result<(), StoreError>;
    /// A user writes spec and meta; header and status stay. `Conflict` when `expected` is not the current version.
    /// A write that changes nothing returns the record as it is, without a new version.
    async fn update_spec(
        &self,
        key: &ActorKey,
        expected: ResourceVersion,
        spec: &SpecRecord,
        meta: &MetaRecord,
    ) -> Result<ActorRecord, StoreError>;
    /// The owner removes the record and its flat id. `Fenced` when epoch or owner differ.
    async fn remove_actor(
        &self,
        key: &ActorKey,
        epoch: Epoch,
        owner: u64,
    ) -> Result<(), StoreError>;
    /// Actors in the order of namespace and name, after `after`, at most `limit` (and never more than a thousand).
    /// A page may be shorter and have a next one all the same.
    async fn list_actors(
        &self,
        namespace: Option<&str>,
        after: Option<&ActorKey>,
        limit: usize,
    ) -> Result<Page<ActorRecord>, StoreError> {
        let name = None;
        self.actors_at(&ListRequest {
            namespace,
            name,
            after,
            limit,
            at: None,
        })
        .await
    }
    /// The same at a version. `Expired` when the log no longer reaches back to it, or the store never came to it.
    async fn actors_at(&self, list: &ListRequest<'_>) -> Result<Page<ActorRecord>, StoreError>;
    /// Ends the leases that earlier processes of a replica left: owners other than `owner` with its upper half. How many
    /// there were. No new resource versions.
    async fn end_leases(&self, owner: u64) -> Result<u64, StoreError>;
    /// Actors whose lease has expired, at most `limit`, and when there may be others.
    async fn expired_leases(&self, limit: usize) -> Result<Expiry, StoreError>;
    /// Actors, at most `limit`, that are marked deleted, that no finalizer holds and that no operation owns: whoever was
    /// to begin the deletion may have died.
    async fn deletions_due(&self, limit: usize) -> Result<Vec<ActorKey>, StoreError>;
    /// A request touched the actor; no new resource version.
    async fn touch(&self, key: &ActorKey, at: Timestamp) -> Result<(), StoreError>;

    // ---- workers

    /// A node reports a worker: added when new; identity, address and phase taken over, an existing claim kept.
    async fn report_worker(&self, worker: &WorkerRecord) -> Result<WorkerRecord, StoreError>;
    /// Takes a free worker of the pool, in O(1) where any node will do. `None` if there is none. A pool has at most one worker per actor: a
    /// claim that the same actor holds already at the same epoch is returned again; one that it holds at an older
    /// epoch must be settled first (`Conflict`), at a newer one it is `Fenced`.
    async fn claim(&self, request: &ClaimRequest) -> Result<Option<WorkerRecord>, StoreError>;
    /// Gives a worker back, clean. Nothing happens unless the claim is of the actor with this uid, at this epoch or an older one.
    async fn release(
        &self,
        pool: &PoolKey,
        worker: &WorkerKey,
        actor: Uuid,
        epoch: Epoch,
    ) -> Result<(), StoreError>;
    /// Removes a worker that nobody claims. One that is claimed stays: who holds it releases it first.
    async fn remove_worker(&self, pool: &PoolKey, worker: &WorkerKey) -> Result<(), StoreError>;
    /// Workers of a pool, or all, as they are now: those of different pools may be of different moments.
    async fn list_workers(&self, pool: Option<&PoolKey>) -> Result<Page<WorkerRecord>, StoreError>;
    /// All workers at a version (`None`: the newest), like [`Store::actors_at`].
    async fn workers_at(
        &self,
        at: Option<ResourceVersion>,
    ) -> Result<Page<WorkerRecord>, StoreError>;

    // ---- nodes and the store itself

    /// Renews a node's lease, and takes over where it is reached, its runtime and what it holds; the lease's end is by the store's clock.
    async fn renew_node(
        &self,
        node: &str,
        address: &str,
        runtime: Option<Build>,
        usage: NodeUsage,
        lease: Duration,
    ) -> Result<NodeRecord, StoreError>;
    /// All nodes, those whose lease lapsed included, and the store's clock.
    async fn list_nodes(&self) -> Result<(Vec<NodeRecord>, Timestamp), StoreError>;
    /// Forgets a node.
    async fn remove_node(&self, node: &str) -> Result<(), StoreError>;
    /// The store's incarnation, not older than what the last operation met; costs nothing right after one.
    async fn incarnation(&self) -> Result<Incarnation, StoreError>;

    // ---- the change log

    /// The newest version: every write that begins from now on gets a later one.
    async fn version(&self) -> Result<ResourceVersion, StoreError>;
    /// Changes of a kind after a version, in order, at most `limit`; waits up to `wait` for the first. Without a wait
    /// nothing is missing that this process wrote before. `Expired` when the log was trimmed past `after`, or lost it.
    async fn changes(
        &self,
        kind: Kind,
        after: ResourceVersion,
        limit: usize,
        wait: Duration,
    ) -> Result<Changes<Change>, StoreError>;

    // ---- small documents of `ate dev` (templates and pools), one shard

    /// Reads a document: its version and JSON.
    async fn get_document(&self, kind: &str, key: &str) -> Result<Option<Document>, StoreError>;
    /// Writes a document when its version is `expected` (`None`: it does not exist), `None` as body removes it.
    /// `Exists`, `NotFound` or `Conflict` when it is not so. An equal body is no change and keeps its version.
    async fn put_document(
        &self,
        kind: &str,
        key: &str,
        expected: Option<ResourceVersion>,
        body: Option<&str>,
    ) -> Result<ResourceVersion, StoreError>;
    /// All documents of a kind at a version (`None`: the newest) in the order of their keys, and that version.
    async fn list_documents(
        &self,
        kind: &str,
        at: Option<ResourceVersion>,
    ) -> Result<(Vec<Document>, ResourceVersion), StoreError>;
    /// Changes of documents of a kind, like [`Store::changes`].
    async fn document_changes(
        &self,
        kind: &str,
        after: ResourceVersion,
        limit: usize,
        wait: Duration,
    ) -> Result<Changes<DocumentChange>, StoreError>;
}

/// A small document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// `namespace/name`.
    pub key: String,
    /// Its version.
    pub version: ResourceVersion,
    /// JSON.
    pub body: String,
}

/// A change of a small document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentChange {
    /// Its place in the log.
    pub version: ResourceVersion,
    /// `namespace/name`.
    pub key: String,
    /// The body before.
    pub before: Option<String>,
    /// The body after.
    pub after: Option<String>,
}
