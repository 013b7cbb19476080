//! Templates and pools, as the Kubernetes API has them.

use crate::api::{ActorTemplate, TemplateKey, WorkerPool};
use std::sync::Arc;

/// What the engine needs to know of templates and pools. Answers come from a local cache and never wait.
pub trait Catalog: Send + Sync + 'static {
    /// Whether the cache has been filled once.
    fn is_synced(&self) -> bool;
    /// A template.
    fn template(&self, key: &TemplateKey) -> Option<Arc<ActorTemplate>>;
    /// All templates. They are few.
    fn templates(&self) -> Vec<Arc<ActorTemplate>>;
    /// All pools.
    fn pools(&self) -> Vec<Arc<WorkerPool>>;
}
