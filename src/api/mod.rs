//! The vocabulary: the kinds that users write, the records that the store keeps, and the rules both obey.
//!
//! [`pool`] and [`template`] are custom resources (`ate.dev/v1alpha1`, kept by Kubernetes); [`actor`] and
//! [`worker`] are the aggregated kinds (`runtime.ate.dev/v1alpha1`, kept by our store as the records of
//! [`record`]); [`view`] turns a record into the object that a client sees. [`names`] holds the newtypes that must not be
//! mixed up, [`quantity`] amounts, [`resources`] what containers may take, [`security`] what they may do, [`dns`] how they resolve names, [`runsc`] what runs them, [`validate`] the rules that every edge applies. No I/O, no clock.

pub mod actor;
pub mod condition;
pub mod dns;
pub mod duration;
pub mod names;
pub mod node;
pub mod pool;
pub mod quantity;
pub mod reason;
pub mod record;
pub mod resources;
pub mod runsc;
pub mod security;
pub mod selector;
pub mod template;
pub mod time;
pub mod validate;
pub mod view;
pub mod worker;

pub use actor::{Actor, ActorSpec, ActorStatus};
pub use names::{
    ActorKey, Epoch, Incarnation, PoolKey, ResourceVersion, SnapshotId, TemplateKey, WorkerKey,
};
pub use pool::{SandboxClass, WorkerPool, WorkerPoolSpec, WorkerPoolStatus};
pub use reason::Reason;
pub use record::{ActorRecord, Phase, WorkerRecord};
pub use template::{ActorTemplate, ActorTemplateSpec, ActorTemplateStatus};
pub use time::Timestamp;
pub use worker::{Worker, WorkerStatus};
