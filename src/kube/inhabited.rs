//! The namespaces in which an actor was ever created, kept in Kubernetes: when the store is away, a namespace that never had
//! one can still be deleted.
//!
//! The names lie in [`SHARDS`] ConfigMaps of the installation's own namespace, as `NAME: UID` of the Namespace, so that one
//! made anew under an old name begins without. A name is written before the first actor is, and goes with its namespace.

use super::namespaces::{LookError, bounded};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{self, ObjectMeta, PostParams};
use kube::{Api, Client, Error};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many ConfigMaps there are. One holds at most 1 MiB, which is some ten thousand names.
const SHARDS: u8 = 16;

/// The name of a ConfigMap.
fn map(number: u8) -> String {
    format!("actor-namespaces-{number}")
}

fn shard(namespace: &str) -> String {
    map(Sha256::digest(namespace)[0] % SHARDS)
}

/// The namespaces that had actors.
pub struct Inhabited {
    maps: Api<ConfigMap>,
    /// Those that we have written or found written, with their UID.
    known: Mutex<HashMap<String, String>>,
}

impl Inhabited {
    /// Kept in the client's default namespace: in a cluster, the one that we run in.
    pub fn new(client: &Client) -> Self {
        Self {
            maps: Api::default_namespaced(client.clone()),
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that an actor is about to be created in a namespace.
    ///
    /// # Errors
    /// It is not noted: nothing may be created.
    pub async fn note(&self, namespace: &str, uid: &str) -> Result<(), LookError> {
        if self.known().get(namespace).is_some_and(|u| u == uid) {
            return Ok(());
        }
        bounded(self.write(namespace, uid)).await?;
        self.known().insert(namespace.to_owned(), uid.to_owned());
        Ok(())
    }

    async fn write(&self, namespace: &str, uid: &str) -> Result<(), Error> {
        let name = shard(namespace);
        let patch = api::Patch::Merge(json!({"data": {namespace: uid}}));
        let params = api::PatchParams::default();
        let patched = self.maps.patch_metadata(&name, &params, &patch).await;
        if !is(&patched, 404) {
            return patched.map(drop);
        }
        let map = ConfigMap {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([(namespace.to_owned(), uid.to_owned())])),
            ..ConfigMap::default()
        };
        let created = self.maps.create(&PostParams::default(), &map).await;
        match is(&created, 409) {
            true => self
                .maps
                .patch_metadata(&name, &params, &patch)
                .await
                .map(drop),
            false => created.map(drop),
        }
    }

    /// Whether an actor was ever created in a namespace. Asks Kubernetes each time: another replica may have written it.
    ///
    /// # Errors
    /// It cannot be told.
    pub async fn has(&self, namespace: &str, uid: &str) -> Result<bool, LookError> {
        let found = bounded(self.maps.get_opt(&shard(namespace))).await?;
        let data = found.and_then(|map| map.data);
        Ok(data.is_some_and(|names| names.get(namespace).is_some_and(|u| u == uid)))
    }

    /// All of them with their UID; of a ConfigMap that cannot be read, none.
    pub async fn all(&self) -> Vec<(String, String)> {
        let mut all = vec![];
        for n in 0..SHARDS {
            let name = map(n);
            match bounded(self.maps.get_opt(&name)).await {
                Ok(found) => all.extend(found.and_then(|map| map.data).unwrap_or_default()),
                Err(error) => {
                    tracing::debug!(name, %error, "namespaces that had actors could not be read");
                }
            }
        }
        all
    }

    /// Forgets a namespace that is gone; one that lives under the same name has another UID. What cannot be written now is
    /// forgotten when namespaces are next listed.
    pub async fn forget(&self, namespace: &str, uid: &str) {
        self.known()
            .retain(|name, known| name != namespace || known != uid);
        let path = format!("/data/{namespace}");
        let operations = json!([
            {"op": "test", "path": path, "value": uid},
            {"op": "remove", "path": path},
        ]);
        let Ok(operations) = serde_json::from_value(operations) else {
            return;
        };
        let patch = api::Patch::<ConfigMap>::Json(operations);
        let (name, params) = (shard(namespace), api::PatchParams::default());
        let patched = bounded(self.maps.patch_metadata(&name, &params, &patch)).await;
        if let Err(error) = patched {
            tracing::debug!(namespace, %error, "not forgotten, or another replica was first");
        }
    }
}

fn is<T>(answer: &Result<T, Error>, code: u16) -> bool {
    matches!(answer, Err(Error::Api(status)) if status.code == code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::Value;

    #[test]
    fn the_manifests_allow_every_map_and_no_other() {
        let manifests = include_str!("../../config/rbac/apiserver.yaml");
        let documents = serde_yaml_ng::Deserializer::from_str(manifests);
        let objects = documents.map(|d| Value::deserialize(d).unwrap());
        let rules = objects.flat_map(|o| o["rules"].as_array().cloned().unwrap_or_default());
        let names = rules.flat_map(|r| r["resourceNames"].as_array().cloned().unwrap_or_default());
        let allowed: Vec<_> = names.collect();
        let maps: Vec<Value> = (0..SHARDS).map(|n| map(n).into()).collect();
        assert_eq!(allowed, maps);
    }
}
