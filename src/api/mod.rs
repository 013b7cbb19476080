//! The vocabulary: the kinds that users write, the records that the store keeps, and the rules both obey.
//!
//! [`pool`] and [`template`] are custom resources (`ate.dev/v1alpha1`, kept by Kubernetes); [`actor`] and
//! [`worker`] are the aggregated kinds (`runtime.ate.dev/v1alpha1`, kept by our store as the records of
//! [`record`]); [`view`] turns a record into the object that a client sees. [`names`] holds the newtypes that must not be
//! mixed up, [`validate`] the rules that every edge applies. No I/O, no clock.

pub mod names;
pub mod reason;
pub mod record;
pub mod time;

pub use names::{
    ActorKey, Epoch, Incarnation, PoolKey, ResourceVersion, SnapshotId, TemplateKey, WorkerKey,
};
pub use reason::Reason;
pub use record::{ActorRecord, Phase, WorkerRecord};
pub use time::Timestamp;
