//! The records that the store keeps. A record is three parts that different writers own: the *header* is moved by
//! operations (begin, commit), the *spec* by users, the *status* by the operation that holds the lease.

use super::names::{
    ActorKey, Build, Epoch, PoolKey, ResourceVersion, SnapshotId, TemplateKey, WorkerKey,
};
use super::node::NodeUsage;
use super::reason::Reason;
use super::selector::Selector;
use super::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use std::collections::BTreeMap;
use std::time::Duration;
use uuid::Uuid;

/// Where an actor is. The three that end in *ing* are transitional: an operation with a lease owns the actor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Phase {
    /// Asleep; its snapshot, if it has one of its own, is in object storage.
    #[default]
    Suspended = 0,
    /// On its way to a worker.
    Resuming = 1,
    /// Runs on a worker.
    Running = 2,
    /// Being saved to object storage, or stopped for deletion.
    Suspending = 3,
    /// Being saved on its node only.
    Pausing = 4,
    /// Asleep; its newest snapshot is on one node only.
    Paused = 5,
}

impl Phase {
    /// Every phase, in the order of their numbers.
    pub const ALL: [Phase; 6] = [
        Phase::Suspended,
        Phase::Resuming,
        Phase::Running,
        Phase::Suspending,
        Phase::Pausing,
        Phase::Paused,
    ];

    /// The phase of a stored number.
    pub fn from_number(n: u8) -> Option<Phase> {
        Self::ALL.get(usize::from(n)).copied()
    }

    /// Whether an operation owns the actor in this phase.
    pub fn is_transitional(self) -> bool {
        match self {
            Phase::Resuming | Phase::Suspending | Phase::Pausing => true,
            Phase::Suspended | Phase::Running | Phase::Paused => false,
        }
    }
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

/// What is wanted of an actor now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Desired {
    /// Asleep, durable.
    #[default]
    Suspended = 0,
    /// Awake.
    Running = 1,
    /// Asleep on its node.
    Paused = 2,
    /// Gone.
    Deleted = 3,
}

impl Desired {
    /// Every wish, in the order of their numbers.
    pub const ALL: [Desired; 4] = [
        Desired::Suspended,
        Desired::Running,
        Desired::Paused,
        Desired::Deleted,
    ];

    /// The wish of a stored number.
    pub fn from_number(n: u8) -> Option<Desired> {
        Self::ALL.get(usize::from(n)).copied()
    }
}

/// Policy: what wakes an actor and what puts it to sleep.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
pub enum OperatingMode {
    /// Sleeps when idle, wakes on traffic or on request.
    #[default]
    OnDemand,
    /// Kept awake, brought back after a loss.
    Running,
    /// Does not wake.
    Suspended,
}

/// The lease of the operation that owns an actor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Random number of the replica's process.
    pub owner: u64,
    /// By the store's clock. After it any replica may take over.
    pub deadline: Timestamp,
}

/// What operations move; kept at fixed offsets so that the store can fence and read in one step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Where the actor is.
    pub phase: Phase,
    /// What is wanted of it.
    pub desired: Desired,
    /// Counts operations.
    pub epoch: Epoch,
    /// The epoch at which the current transition began: takeovers raise `epoch` but leave this. Names the snapshot in progress.
    pub operation: Epoch,
    /// The current transition starts from the image, without any snapshot; gone when it ends.
    pub boot: bool,
    /// The current suspend can be cut short: its image is complete on a node, the worker is given back, and a wake goes on from
    /// there without waiting for the owner. Gone when the suspend ends.
    pub yields: bool,
    /// Who owns the transition; `None` outside one.
    pub lease: Option<Lease>,
    /// Stamp of the last write. Set by the store.
    pub resource_version: ResourceVersion,
    /// Counts the writes of the record. Set by the store.
    pub writes: u64,
}

/// Overrides of the template's idle times.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdleRecord {
    /// Suspend after this long without activity.
    pub suspend_after: Option<Duration>,
    /// Pause after this long without activity.
    pub pause_after: Option<Duration>,
}

/// What users decide.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecRecord {
    /// The template.
    pub template: TemplateKey,
    /// Policy.
    pub mode: OperatingMode,
    /// Labels of the pools whose workers may run it.
    pub worker_selector: Selector,
    /// Overrides of the template's idle times.
    pub idle: IdleRecord,
    /// Counts changes of the spec and the start of deletion.
    pub generation: u32,
    /// When deletion was asked for.
    pub deleted: Option<Timestamp>,
}

/// What kind of state a snapshot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SnapshotKind {
    /// The template's; every new actor starts from it.
    Golden,
    /// The actor's own, in object storage.
    Durable,
    /// The actor's own, on one node only.
    Local,
}

/// A snapshot of the actor's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// Epoch of the operation that made it; with the actor's uid its [`SnapshotId`].
    pub epoch: Epoch,
    /// Bytes that were stored for it: what was new. On a node only: all of it.
    pub bytes: u64,
    /// When it was complete.
    pub time: Timestamp,
    /// The runtime that made it, and that alone restores it; `None`: its node did not say.
    pub runtime: Option<Build>,
}

/// A snapshot on one node only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalSnapshotRecord {
    /// The snapshot.
    pub snapshot: SnapshotRecord,
    /// The node that holds it.
    pub node: String,
}

/// Where an actor runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The worker.
    pub worker: WorkerKey,
    /// Its pod's uid; under `ate dev` its executor's.
    pub uid: String,
    /// Its pool.
    pub pool: PoolKey,
    /// Its node.
    pub node: String,
    /// Its address.
    pub ip: String,
    /// `host:port` at which this assignment, and no other, is reachable.
    pub address: String,
}

/// What went wrong last; gone with the next success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// In one word.
    pub reason: Reason,
    /// For a person.
    pub message: String,
    /// How often in a row.
    pub count: u32,
    /// When.
    pub time: Timestamp,
    /// No attempt is made before.
    pub retry_at: Timestamp,
}

/// The actor lost what it did after its last snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolledBack {
    /// Why.
    pub reason: Reason,
    /// For a person; empty: the reason says it all.
    pub message: String,
    /// When.
    pub time: Timestamp,
    /// The snapshot's time; `None`: it starts from the golden snapshot or the image.
    pub to: Option<Timestamp>,
}

/// What a transition spends its time on. Stored by number: a new one goes to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, strum::Display)]
#[strum(serialize_all = "lowercase")]
pub enum Work {
    /// Reserving a worker.
    Claim,
    /// Starting the sandbox.
    Start,
    /// Saving the sandbox on its node.
    Checkpoint,
    /// Giving the worker back.
    Release,
    /// Moving the snapshot to object storage.
    Publish,
    /// Ending the sandbox without saving it.
    Stop,
    /// Finding out what became of an earlier attempt.
    Find,
}

/// How long a transition spent on something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// On what.
    pub work: Work,
    /// Tenths of a millisecond: there is one record for every actor that sleeps.
    pub tenths: u32,
}

/// What operations find out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusRecord {
    /// The actor's uid.
    pub uid: Uuid,
    /// When it was created.
    pub created: Timestamp,
    /// Created through gRPC: its name is a cluster-wide flat id.
    pub flat: bool,
    /// Where it runs; `Some` in Running, Pausing, and Suspending until that yields.
    pub assignment: Option<Assignment>,
    /// Newest durable snapshot of its own.
    pub durable: Option<SnapshotRecord>,
    /// Newer snapshot on one node only.
    pub local: Option<LocalSnapshotRecord>,
    /// When a request or an operation last touched it.
    pub last_activity: Timestamp,
    /// When the phase last changed to where it is.
    pub last_transition: Timestamp,
    /// How long that transition took, in microseconds.
    pub last_duration_micros: u64,
    /// What it spent that on, in the order in which it began with it.
    pub last_steps: Vec<StepRecord>,
    /// What went wrong last.
    pub failure: Option<Failure>,
    /// Since the last own snapshot after it.
    pub rolled_back: Option<RolledBack>,
}

/// Labels, annotations and what else Kubernetes keeps on an object; beside the hot record, only where present.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaRecord {
    /// What its name was made from, where it was.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub generate_name: String,
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Finalizers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub finalizers: Vec<String>,
    /// Owner references, as JSON.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owner_references: Vec<serde_json::Value>,
    /// Managed fields.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub managed_fields: Vec<JsonText>,
}

/// A JSON value that nobody takes apart on its way: the text itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JsonText(Box<RawValue>);

impl JsonText {
    /// The value's text; `null` for what has none in JSON.
    pub fn of(value: &impl Serialize) -> JsonText {
        JsonText(to_raw_value(value).unwrap_or_else(|_| RawValue::NULL.to_owned()))
    }
}

/// Equal texts.
impl PartialEq for JsonText {
    fn eq(&self, other: &JsonText) -> bool {
        self.0.get() == other.0.get()
    }
}

impl Eq for JsonText {}

impl MetaRecord {
    /// Whether nothing needs keeping.
    pub fn is_empty(&self) -> bool {
        self == &Self::default()
    }
}

/// An actor as the store keeps it: truth about the actor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActorRecord {
    /// Its name.
    pub key: ActorKey,
    /// Moved by operations.
    pub header: Header,
    /// Moved by users.
    pub spec: SpecRecord,
    /// Moved by the lease holder.
    pub status: StatusRecord,
    /// Beside the record.
    pub meta: MetaRecord,
}

impl ActorRecord {
    /// The id of a snapshot of this actor's own.
    pub fn snapshot_id(&self, snapshot: &SnapshotRecord) -> SnapshotId {
        SnapshotId {
            actor: self.status.uid,
            epoch: snapshot.epoch,
        }
    }

    /// The id of the snapshot that the current transition makes.
    pub fn snapshot_in_progress(&self) -> SnapshotId {
        SnapshotId {
            actor: self.status.uid,
            epoch: self.header.operation,
        }
    }

    /// What old clients call it: the flat id, or `name.namespace`.
    pub fn flat_id(&self) -> String {
        if self.status.flat {
            self.key.name.clone()
        } else {
            format!("{}.{}", self.key.name, self.key.namespace)
        }
    }
}

/// Who holds a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The actor.
    pub actor: ActorKey,
    /// Its uid: another one of the same name holds nothing by it.
    pub uid: Uuid,
    /// Its epoch when it claimed.
    pub epoch: Epoch,
    /// By the store's clock; after it any replica may settle the claim against the actor's record.
    pub deadline: Timestamp,
}

/// Where a worker is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum WorkerPhase {
    /// Clean and unclaimed.
    #[default]
    Free,
    /// Reserved for, or running, an actor.
    Claimed,
    /// Leaves; takes no claim.
    Draining,
    /// Could not prove itself clean.
    Dirty,
    /// Its node is not heard of; takes no claim.
    Lost,
}

impl std::fmt::Display for WorkerPhase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self, f)
    }
}

/// A worker as the store keeps it: a reservation that any replica may settle.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRecord {
    /// Its name.
    pub key: WorkerKey,
    /// Its pool.
    pub pool: PoolKey,
    /// Uid of its pod or executor.
    pub uid: String,
    /// Its node.
    pub node: String,
    /// Its address.
    pub ip: String,
    /// What kind of sandbox it runs.
    pub sandbox_class: String,
    /// Where it is.
    pub phase: WorkerPhase,
    /// Who holds it.
    pub claim: Option<Claim>,
    /// When it was first reported.
    pub created: Timestamp,
    /// Stamp of the last write. Set by the store.
    #[serde(skip)]
    pub resource_version: ResourceVersion,
    /// Counts the writes of the record.
    pub writes: u64,
}

/// A node as the store keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Its name.
    pub name: String,
    /// `host:port` of its AteomHerder.
    pub address: String,
    /// Until when its sandboxes may run, by the store's clock.
    pub lease: Timestamp,
    /// The runtime of templates that name none; `None`: it has none, or did not say.
    pub runtime: Option<Build>,
    /// What its snapshots take of its disk.
    pub usage: NodeUsage,
}
