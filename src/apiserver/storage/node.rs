//! Node agents, as they reported last. Read-only, and not watched: they report every few seconds.

use super::{ObjectKey, ObjectList, ObjectPage, Storage, StorageError};
use crate::api::names::ResourceVersion;
use crate::api::node::NodeAgent;
use crate::store::Store;
use async_trait::async_trait;
use serde_json::Value;
use std::sync::Arc;

/// Shows node agents.
pub struct NodeStorage {
    store: Arc<dyn Store>,
}

impl NodeStorage {
    /// Of a store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    async fn all(&self) -> Result<(Vec<NodeAgent>, ResourceVersion), StorageError> {
        let workers = self.store.list_workers(None).await?;
        let (nodes, now) = self.store.list_nodes().await?;
        let nodes = nodes
            .iter()
            .map(|node| NodeAgent::of(node, &workers.items, now));
        Ok((nodes.collect(), workers.version))
    }
}

fn object(node: &NodeAgent) -> Result<Value, StorageError> {
    serde_json::to_value(node).map_err(|e| StorageError::Internal(e.to_string()))
}

fn key(node: &NodeAgent) -> ObjectKey {
    ObjectKey::new("", node.metadata.name.as_deref().unwrap_or_default())
}

#[async_trait]
impl Storage for NodeStorage {
    async fn get(&self, wanted: &ObjectKey) -> Result<Value, StorageError> {
        let (all, _) = self.all().await?;
        let found = all.iter().find(|node| key(node) == *wanted);
        object(found.ok_or(StorageError::NotFound)?)
    }

    /// As they are now, whatever the version: what they said before is not kept.
    async fn list(&self, list: &ObjectList<'_>) -> Result<ObjectPage, StorageError> {
        let (all, version) = self.all().await?;
        ObjectPage::of(list, list.at.unwrap_or(version), &all, key, object)
    }

    async fn version(&self) -> Result<ResourceVersion, StorageError> {
        Ok(self.store.version().await?)
    }
}
