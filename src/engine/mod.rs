//! Carries out, across store and node, the steps that [`crate::lifecycle`] decides for an actor.
//!
//! [`Engine::resume`], [`Engine::suspend`], [`Engine::pause`] and [`Engine::delete`] write what is desired and then
//! do inline what [`recover`] does for operations whose owner died: [`drive`] asks `plan` for the next step, carries
//! it out ([`steps`]), and asks again. [`report`] takes in what nodes say of their slots. Called by `control` and
//! `apiserver` (through their doors) and by `controller` (golden actors); knows nothing of HTTP.

mod directory;
mod drive;
mod error;
mod metrics;
mod progress;
pub mod recover;
pub mod report;
mod steps;
#[cfg(test)]
mod tests;
mod workload;

pub use error::DriveError;

use crate::api::ActorKey;
use crate::api::record::{ActorRecord, Desired};
use crate::api::resources::Room;
use crate::kube::{Catalog, Secrets};
use crate::lifecycle::edges::Intent;
use crate::lifecycle::placement;
use crate::proto::atenode::{ActorIdentity, StepTiming};
use crate::rpc::nodes::NodeClient;
use crate::store::{Store, StoreError};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// Settings of an engine.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where snapshots go whose template names no location.
    pub snapshot_location: String,
    /// How long an operation owns an actor without renewing.
    pub operation_lease: Duration,
    /// How long a node's sandboxes may run without its renewing.
    pub node_lease: Duration,
    /// What this replica is called, now and when it is started again; no other replica is called so while it runs. It
    /// goes on at once with what its earlier process left, where others wait until `operation_lease` has passed.
    pub replica: Option<String>,
    /// What a worker has whose pool does not say.
    pub room: Room,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            snapshot_location: "file:///var/lib/ate/published".into(),
            operation_lease: Duration::from_secs(20),
            node_lease: Duration::from_secs(90),
            replica: None,
            room: Room::default(),
        }
    }
}

/// How a caller wants an operation done.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// The caller waits no longer than this; the operation itself goes on.
    pub deadline: Instant,
    /// A resume starts from the image, without any snapshot.
    pub boot: bool,
    /// Only the actor with this uid, not another of its name.
    pub only: Option<Uuid>,
}

impl Call {
    /// A call that waits so long.
    pub fn within(limit: Duration) -> Self {
        Call {
            deadline: Instant::now() + limit,
            boot: false,
            only: None,
        }
    }

    /// The same, about the actor with this uid only.
    pub fn only(self, uid: Uuid) -> Self {
        Call {
            only: Some(uid),
            ..self
        }
    }

    /// The same, starting from the image.
    pub fn booting(self) -> Self {
        Call { boot: true, ..self }
    }
}

/// The number of a process, as [`crate::store::Begin::owner`] has it.
fn owner(replica: Option<&str>) -> u64 {
    let process = u64::from(rand::random::<u32>());
    let replica = replica.map_or_else(rand::random, |name| {
        let digest = Sha256::digest(name);
        u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
    });
    u64::from(replica) << 32 | process
}

/// The one place that moves actors. Any number of replicas may run over one store.
pub struct Engine {
    store: Arc<dyn Store>,
    nodes: Arc<dyn NodeClient>,
    catalog: Arc<dyn Catalog>,
    secrets: Arc<dyn Secrets>,
    options: Options,
    owner: u64,
    /// The store's incarnation, as last read; 0: to be read again.
    incarnation: AtomicU64,
    directory: directory::Directory,
    running: progress::Running,
    wakes: progress::Wakes,
    reports: report::Seen,
}

impl Engine {
    /// An engine that owns its operations under a number that no other process has.
    pub fn new(
        store: Arc<dyn Store>,
        nodes: Arc<dyn NodeClient>,
        catalog: Arc<dyn Catalog>,
        secrets: Arc<dyn Secrets>,
        options: Options,
    ) -> Arc<Self> {
        Arc::new(Engine {
            store,
            nodes,
            catalog,
            secrets,
            owner: owner(options.replica.as_deref()),
            options,
            incarnation: AtomicU64::new(0),
            directory: directory::Directory::default(),
            running: progress::Running::default(),
            wakes: progress::Wakes::default(),
            reports: report::Seen::default(),
        })
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Templates and pools.
    pub fn catalog(&self) -> &Arc<dyn Catalog> {
        &self.catalog
    }

    /// Secrets that templates name.
    pub fn secrets(&self) -> &Arc<dyn Secrets> {
        &self.secrets
    }

    /// Prefix under which an actor's own snapshots lie.
    pub fn snapshots_of(&self, actor: &ActorRecord) -> String {
        let template = self
            .catalog
            .template(&actor.spec.template)
            .unwrap_or_default();
        placement::snapshots_of(actor, &template, &self.options.snapshot_location)
    }

    /// Wakes an actor, or joins the wake that is under way. Returns when it takes requests.
    pub async fn resume(
        self: &Arc<Self>,
        key: &ActorKey,
        call: Call,
    ) -> Result<ActorRecord, DriveError> {
        self.reach(key, Intent::Want(Desired::Running), call).await
    }

    /// Saves an actor to object storage. Returns when the snapshot is published.
    pub async fn suspend(
        self: &Arc<Self>,
        key: &ActorKey,
        call: Call,
    ) -> Result<ActorRecord, DriveError> {
        self.reach(key, Intent::Want(Desired::Suspended), call)
            .await
    }

    /// Saves an actor on its node only. Returns when its worker is free.
    pub async fn pause(
        self: &Arc<Self>,
        key: &ActorKey,
        call: Call,
    ) -> Result<ActorRecord, DriveError> {
        self.reach(key, Intent::Want(Desired::Paused), call).await
    }

    /// Ends an actor's sandbox without saving it, and removes its snapshots and its record.
    pub async fn delete(self: &Arc<Self>, key: &ActorKey, call: Call) -> Result<(), DriveError> {
        match self.reach(key, Intent::Want(Desired::Deleted), call).await {
            Ok(_) | Err(DriveError::NotFound(_)) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Starts what brings an actor where it is wanted, without waiting for it: the record as it is then. `boot`
    /// makes a resume start from the image.
    pub async fn order(
        self: &Arc<Self>,
        key: &ActorKey,
        desired: Desired,
        boot: bool,
    ) -> Result<ActorRecord, DriveError> {
        self.begin_only(key, Intent::Want(desired), boot).await
    }

    /// The store's incarnation. Read once, and again after [`Engine::forget_incarnation`], so that an order costs no
    /// round trip of its own.
    async fn incarnation(&self) -> Result<u64, StoreError> {
        let known = self.incarnation.load(Ordering::Relaxed);
        if known != 0 {
            return Ok(known);
        }
        let read = self.store.incarnation().await?.0;
        self.incarnation.store(read, Ordering::Relaxed);
        Ok(read)
    }

    /// Somebody has seen another one: a node refused an order, or says so in its report.
    fn forget_incarnation(&self) {
        self.incarnation.store(0, Ordering::Relaxed);
    }

    /// What the steps of the wake took that brought an actor to where it runs; told once.
    pub fn wake_steps(&self, actor: &ActorRecord) -> Vec<StepTiming> {
        self.wakes.take(&actor.key, actor.header.epoch)
    }

    /// Where the node is reached that runs an actor, and who the actor is there; `None` while it sleeps.
    pub async fn node_of(
        &self,
        key: &ActorKey,
    ) -> Result<Option<(String, ActorIdentity)>, DriveError> {
        let actor = self
            .find(key)
            .await?
            .ok_or_else(|| DriveError::NotFound(key.clone()))?;
        let Some(assignment) = &actor.status.assignment else {
            return Ok(None);
        };
        let address = self
            .directory
            .address(&*self.store, &assignment.node)
            .await?;
        Ok(address.map(|address| (address, workload::identity(&actor))))
    }
}
