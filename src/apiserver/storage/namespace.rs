//! Namespaces of `ate dev`: every name is one; those that are in use are listed, and `default`.

use super::{ObjectKey, ObjectList, ObjectPage, Storage, StorageError};
use crate::api::names::{ResourceVersion, is_dns_label};
use async_trait::async_trait;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Sorts after every name, so that a page after it begins with the next namespace.
const AFTER_NAMES: &str = "~";
/// Namespaces that are listed.
const MAX_NAMESPACES: usize = 10_000;

/// Makes namespaces up from the objects of other kinds.
pub struct NamespaceStorage {
    kinds: Vec<Arc<dyn Storage>>,
}

impl NamespaceStorage {
    /// From these kinds.
    pub fn new(kinds: Vec<Arc<dyn Storage>>) -> Self {
        Self { kinds }
    }

    async fn used(&self) -> Result<(BTreeSet<String>, ResourceVersion), StorageError> {
        let (mut all, mut version) = (BTreeSet::from(["default".to_owned()]), ResourceVersion(1));
        for kind in &self.kinds {
            let mut after = None;
            while all.len() < MAX_NAMESPACES {
                let list = ObjectList {
                    namespace: None,
                    name: None,
                    after: after.as_ref(),
                    limit: 1,
                    at: None,
                };
                let page = kind.list(&list).await?;
                version = version.max(page.version);
                let first = page.items.first();
                let Some(name) = first.map(|o| o.key().namespace) else {
                    // A page may be empty and have a next one.
                    after = page.next;
                    if after.is_none() {
                        break;
                    }
                    continue;
                };
                after = Some(ObjectKey::new(&name, AFTER_NAMES));
                all.insert(name);
            }
        }
        Ok((all, version))
    }
}

fn object(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {
            "name": name, "resourceVersion": "1",
            "labels": {"kubernetes.io/metadata.name": name},
            "uid": uuid(name),
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    })
}

/// The same for a name every time.
fn uuid(name: &str) -> String {
    use sha2::{Digest, Sha256};
    let hash = Sha256::digest(name.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    uuid::Builder::from_custom_bytes(bytes)
        .into_uuid()
        .to_string()
}

#[async_trait]
impl Storage for NamespaceStorage {
    async fn get(&self, key: &ObjectKey) -> Result<Value, StorageError> {
        if is_dns_label(&key.name) {
            Ok(object(&key.name))
        } else {
            Err(StorageError::NotFound)
        }
    }

    /// As they are now, whatever the version: what comes and goes is not kept.
    async fn list(&self, list: &ObjectList<'_>) -> Result<ObjectPage, StorageError> {
        let (all, version) = self.used().await?;
        let all: Vec<_> = all.into_iter().collect();
        let key = |name: &String| ObjectKey::new("", name);
        let version = list.at.unwrap_or(version);
        ObjectPage::of(list, version, &all, key, |name| Ok(object(name)))
    }

    async fn version(&self) -> Result<ResourceVersion, StorageError> {
        Ok(self.used().await?.1)
    }
}
