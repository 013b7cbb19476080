//! The node agent: one reconcile loop per slot, and the gRPC server that takes orders for them.
//!
//! An order ([`herder`]) is fenced, written to disk as the slot's desired assignment and carried out by the slot's loop
//! ([`slot`]), which asks the slot's executor what runs, asks `lifecycle::slot::plan` for the next step, and does it. What an
//! assignment needs is made here too: images turned into bundles ([`workload`]), the runtime's executable
//! ([`runtime`]), node copies of snapshots ([`snapshots`]). Which slots there are is told by the caller
//! ([`pools`]): so many child processes per pool, or these pods; each form has a [`SlotProvider`]. Every change is reported to the API server ([`report`]),
//! whose answers renew the node's lease ([`lease`]): while that has lapsed, all sandboxes stand still.
//!
//! Sandboxes are run by `node::ateom`, in another process. `cli` and `dev` call [`run`].

mod adopt;
mod config;
mod download;
mod error;
mod fences;
mod files;
mod herder;
#[cfg(test)]
#[path = "../../../e2e/parts/https.rs"]
mod https;
mod identity;
mod laps;
mod layout;
mod lease;
mod logs;
mod metrics;
mod mounts;
mod outcome;
mod pods;
mod pools;
mod processes;
mod provider;
mod report;
mod run;
mod runtime;
mod slot;
mod snapshots;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod workload;

pub use config::{Form, Options, PoolSlots, Processes, WorkerPod};
pub use error::Error;
pub use provider::{Access, Executor, ExecutorRecord, Home, Place, SlotProvider};
pub use run::run;
