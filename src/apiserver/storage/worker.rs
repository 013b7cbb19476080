//! Workers, as the store's records show them. Read-only.

use super::{ObjectChange, ObjectKey, ObjectPage, Storage, StorageError, stamp};
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

    async fn list(
        &self,
        namespace: Option<&str>,
        after: Option<&ObjectKey>,
        limit: usize,
    ) -> Result<ObjectPage, StorageError> {
        let page = self.store.list_workers(None).await?;
        let mut wanted: Vec<_> = page
            .items
            .iter()
            .map(|w| (key(w), w))
            .filter(|(key, _)| namespace.is_none_or(|n| key.namespace == n))
            .filter(|(key, _)| after.is_none_or(|a| key > a))
            .collect();
        wanted.sort_by(|a, b| a.0.cmp(&b.0));
        let next = (wanted.len() > limit)
            .then(|| {
                wanted
                    .get(limit.saturating_sub(1))
                    .map(|(key, _)| key.clone())
            })
            .flatten();
        let items = wanted
            .iter()
            .take(limit)
            .map(|(_, w)| object(w))
            .collect::<Result<_, _>>()?;
        Ok(ObjectPage {
            items,
            version: page.version,
            next,
        })
    }

    async fn changes(
        &self,
        after: ResourceVersion,
        wait: Duration,
    ) -> Result<Vec<ObjectChange>, StorageError> {
        let changes = self.store.changes(Kind::Worker, after, BATCH, wait).await?;
        let image = |image: Option<Image>, version| match image {
            Some(Image::Worker(record)) => {
                let mut object = object(&record)?;
                stamp(&mut object, version);
                Ok(Some(object))
            }
            Some(Image::Actor(_)) | None => Ok::<_, StorageError>(None),
        };
        changes
            .into_iter()
            .map(|c| {
                Ok(ObjectChange {
                    version: c.version,
                    before: image(c.before, c.version)?,
                    after: image(c.after, c.version)?,
                })
            })
            .collect()
    }
}
