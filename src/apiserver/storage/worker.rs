//! Workers, as the store's records show them. Read-only.

use super::{ObjectChanges, ObjectKey, ObjectList, ObjectPage, Storage, StorageError};
use crate::api::names::ResourceVersion;
use crate::api::record::WorkerRecord;
use crate::api::worker::Worker;
use crate::store::{Image, Kind, Store};
use async_trait::async_trait;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// Changes read at once.
const BATCH: usize = 500;

/// Shows workers.
pub struct WorkerStorage {
    store: Arc<dyn Store>,
}

impl WorkerStorage {
    /// Of a store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }
}

fn object(record: &WorkerRecord) -> Result<Value, StorageError> {
    serde_json::to_value(Worker::from(record)).map_err(|e| StorageError::Internal(e.to_string()))
}

fn key(record: &WorkerRecord) -> ObjectKey {
    ObjectKey::new(&record.key.namespace, &record.key.name)
}

#[async_trait]
impl Storage for WorkerStorage {
    async fn get(&self, wanted: &ObjectKey) -> Result<Value, StorageError> {
        let page = self.store.list_workers(None).await?;
        let found = page.items.iter().find(|w| key(w) == *wanted);
        object(found.ok_or(StorageError::NotFound)?)
    }

    async fn list(&self, list: &ObjectList<'_>) -> Result<ObjectPage, StorageError> {
        let page = self.store.workers_at(list.at).await?;
        ObjectPage::of(list, page.version, &page.items, key, object)
    }

    async fn version(&self) -> Result<ResourceVersion, StorageError> {
        Ok(self.store.version().await?)
    }

    async fn changes(
        &self,
        after: ResourceVersion,
        wait: Duration,
    ) -> Result<ObjectChanges, StorageError> {
        let changes = self.store.changes(Kind::Worker, after, BATCH, wait).await?;
        ObjectChanges::of_records(&changes, |image| match image {
            Image::Worker(record) => object(record).map(Some),
            Image::Actor(_) => Ok(None),
        })
    }
}
