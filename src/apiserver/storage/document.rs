//! Objects kept whole as small documents of the store: what etcd is for Kubernetes' own kinds.

use super::{
    ObjectChange, ObjectChanges, ObjectKey, ObjectList, ObjectPage, Part, Storage, StorageError,
    Written, has_finalizers, is_deleting, stamp,
};
use crate::api::names::ResourceVersion;
use crate::store::{Document, DocumentChange, Store, StoreError};
use async_trait::async_trait;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// Changes read at once.
const BATCH: usize = 500;

/// Keeps the objects of a kind as documents.
pub struct DocumentStorage {
    store: Arc<dyn Store>,
    kind: &'static str,
}

impl DocumentStorage {
    /// Documents of a kind; by convention its plural.
    pub fn new(store: Arc<dyn Store>, kind: &'static str) -> Self {
        Self { store, kind }
    }

    async fn put(
        &self,
        key: &ObjectKey,
        expected: Option<ResourceVersion>,
        object: &Value,
    ) -> Result<ResourceVersion, StoreError> {
        let body = without_version(object).to_string();
        self.store
            .put_document(self.kind, &name(key), expected, Some(&body))
            .await
    }

    async fn remove(
        &self,
        key: &ObjectKey,
        expected: ResourceVersion,
        mut object: Value,
    ) -> Result<Written, StorageError> {
        let version = self
            .store
            .put_document(self.kind, &name(key), Some(expected), None)
            .await?;
        stamp(&mut object, version);
        Ok(Written::Gone(object))
    }
}

fn name(key: &ObjectKey) -> String {
    format!("{}/{}", key.namespace, key.name)
}

fn key(text: &str) -> ObjectKey {
    let (namespace, name) = text.split_once('/').unwrap_or(("", text));
    ObjectKey::new(namespace, name)
}

fn without_version(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("resourceVersion");
    }
    object
}

fn parse(body: &str, version: ResourceVersion) -> Result<Value, StorageError> {
    let mut object = serde_json::from_str(body)
        .map_err(|e| StorageError::Internal(format!("a document cannot be read: {e}")))?;
    stamp(&mut object, version);
    Ok(object)
}

#[async_trait]
impl Storage for DocumentStorage {
    async fn get(&self, key: &ObjectKey) -> Result<Value, StorageError> {
        let found = self.store.get_document(self.kind, &name(key)).await?;
        let Document { version, body, .. } = found.ok_or(StorageError::NotFound)?;
        parse(&body, version)
    }

    async fn list(&self, list: &ObjectList<'_>) -> Result<ObjectPage, StorageError> {
        let (documents, version) = self.store.list_documents(self.kind, list.at).await?;
        let object = |d: &Document| parse(&d.body, d.version);
        ObjectPage::of(list, version, &documents, |d| key(&d.key), object)
    }

    async fn version(&self) -> Result<ResourceVersion, StorageError> {
        Ok(self.store.version().await?)
    }

    async fn changes(
        &self,
        after: ResourceVersion,
        wait: Duration,
    ) -> Result<ObjectChanges, StorageError> {
        let changes = self
            .store
            .document_changes(self.kind, after, BATCH, wait)
            .await?;
        ObjectChanges::of(&changes, |c: &DocumentChange| {
            let image = |body: &Option<String>| {
                let body = body.as_ref();
                body.map(|b| parse(b, c.version)).transpose()
            };
            Ok(ObjectChange {
                version: c.version,
                before: image(&c.before)?,
                after: image(&c.after)?,
            })
        })
    }

    async fn create(&self, key: &ObjectKey, mut object: Value) -> Result<Value, StorageError> {
        let version = self.put(key, None, &object).await.map_err(|e| match e {
            StoreError::Conflict(_) => StorageError::Exists,
            other => other.into(),
        })?;
        stamp(&mut object, version);
        Ok(object)
    }

    async fn update(
        &self,
        key: &ObjectKey,
        _part: Part,
        mut object: Value,
        expected: ResourceVersion,
    ) -> Result<Written, StorageError> {
        if is_deleting(&object) && !has_finalizers(&object) {
            return self.remove(key, expected, object).await;
        }
        let version = self.put(key, Some(expected), &object).await?;
        stamp(&mut object, version);
        Ok(Written::Kept(object))
    }

    async fn delete(
        &self,
        key: &ObjectKey,
        marked: Value,
        expected: ResourceVersion,
    ) -> Result<Written, StorageError> {
        self.update(key, Part::Spec, marked, expected).await
    }
}
