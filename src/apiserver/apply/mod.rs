//! Server-side apply: who owns which field of an object, and what becomes of it when one applies what it wants.
//!
//! Works as Kubernetes' structured-merge-diff and managedfields do, on JSON values by the types that a schema
//! describes. Pure: no storage, no clock; times are arguments. [`FieldManager`] is what the write path calls; whether
//! an object is valid, and storing it, is that path's business.

mod compare;
mod conflict;
mod items;
mod last_applied;
mod manager;
mod managers;
mod merge;
mod path;
mod reconcile;
mod set;
#[cfg(test)]
mod tests;
mod types;
mod update;
mod value;

pub use conflict::{Conflict, Conflicts};
pub use manager::{ApplyError, FieldManager};
pub use path::Path;
pub use set::FieldSet;
pub use types::{Type, object_meta};

/// Levels of `fieldsV1` that are read.
const MAX_DEPTH: usize = 128;
