//! Keeps what belongs to a pool as it shall be, by server-side apply; at rest it asks nothing.

use super::image::WorkerImages;
use super::objects::{self, DIGEST};
use super::rollout::{Pods, Rollout};
use super::{MANAGER, cost};
use crate::api::pool::POOL_LABEL;
use crate::api::{PoolKey, WorkerPool, validate};
use crate::store::Store;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// It is looked at again after this time even if no watch told of a change: a watch that broke may have missed a deletion.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// What Kubernetes refused is tried again after this time: a quota or a policy may have changed.
const REFUSED_AGAIN: Duration = Duration::from_secs(10);

/// What was last seen of each pool's Deployment. What watches tell of makes it forgotten.
#[derive(Default)]
pub(super) struct Seen(Mutex<HashMap<PoolKey, Look>>);

enum Look {
    /// Somebody looks.
    Begun,
    /// As of then, for that generation of the pool.
    Done(i64, Instant, Pods),
}

impl Seen {
    fn all(&self) -> MutexGuard<'_, HashMap<PoolKey, Look>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something of the pool's changed.
    pub(super) fn forget(&self, pool: &PoolKey) {
        self.all().remove(pool);
    }

    fn recent(&self, pool: &PoolKey, generation: i64) -> Option<Pods> {
        match self.all().get(pool)? {
            Look::Done(of, at, pods) if *of == generation => {
                let again = match pods {
                    Pods::Refused(..) => REFUSED_AGAIN,
                    Pods::None | Pods::Rollout(_) => LOOK_AGAIN,
                };
                (at.elapsed() < again).then(|| pods.clone())
            }
            Look::Begun | Look::Done(..) => None,
        }
    }

    /// Keeps what was seen, unless something changed since the look began. Pools that are no more are forgotten.
    fn keep(
        &self,
        pool: &PoolKey,
        generation: i64,
        pods: &Pods,
        exists: impl Fn(&PoolKey) -> bool,
    ) {
        let mut all = self.all();
        if let Some(look) = all.get_mut(pool) {
            *look = Look::Done(generation, Instant::now(), pods.clone());
        }
        all.retain(|key, _| key == pool || exists(key));
    }
}

/// The Deployment and the budget of pools.
pub(super) struct Owned {
    pub(super) client: Client,
    pub(super) images: WorkerImages,
    pub(super) seen: Seen,
}

impl Owned {
    /// Makes what is missing, puts back what somebody changed. `store` knows who is busy.
    pub(super) async fn converge(
        &self,
        pool: &WorkerPool,
        key: &PoolKey,
        store: &dyn Store,
        exists: impl Fn(&PoolKey) -> bool,
    ) -> Result<Pods, kube::Error> {
        let generation = pool.metadata.generation.unwrap_or_default();
        if let Some(pods) = self.seen.recent(key, generation) {
            return Ok(pods);
        }
        self.seen.all().insert(key.clone(), Look::Begun);
        let pods = match self.look(pool, key, store).await {
            Err(kube::Error::Api(status)) if is_refusal(status.code) => {
                Pods::Refused("Refused", status.message)
            }
            other => other?,
        };
        self.seen.keep(key, generation, &pods, exists);
        Ok(pods)
    }

    async fn look(
        &self,
        pool: &WorkerPool,
        key: &PoolKey,
        store: &dyn Store,
    ) -> Result<Pods, kube::Error> {
        if let Some(wrong) = validate::object(&key.name, &key.namespace, &pool.spec).first() {
            return Ok(Pods::Refused("Invalid", wrong.to_string()));
        }
        let chosen = match self.images.choose(pool.spec.ateom_image.as_deref()) {
            Ok(chosen) => chosen,
            Err(why) => return Ok(Pods::Refused("ImageNotAllowed", why)),
        };
        let deployment = objects::deployment(pool, &chosen.image);
        let found: Option<Deployment> = self.find(&deployment).await?;
        if let Some(found) = &found
            && cost::will_delete(found, &deployment)
            // Also while the store is away.
            && let Ok(workers) = store.list_workers(Some(key)).await
        {
            cost::mark(&self.client, key, &workers.items).await?;
        }
        let deployment = match self.put(pool, found, &deployment).await? {
            Some(deployment) => deployment,
            None => return Ok(taken("Deployment", pool)),
        };
        let budget = objects::budget(pool);
        let found = self.find(&budget).await?;
        if self.put(pool, found, &budget).await?.is_none() {
            return Ok(taken("PodDisruptionBudget", pool));
        }
        Ok(Pods::Rollout(Rollout::of(&deployment, chosen.instead_of)))
    }

    fn api<K>(&self, desired: &K) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        let namespace = desired.namespace().unwrap_or_default();
        Api::namespaced(self.client.clone(), &namespace)
    }

    async fn find<K>(&self, desired: &K) -> Result<Option<K>, kube::Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + Debug + DeserializeOwned,
    {
        self.api(desired).get_opt(&desired.name_any()).await
    }

    /// Writes what is wanted where it differs from what was found. `None` when the name is somebody else's.
    async fn put<K>(
        &self,
        pool: &WorkerPool,
        found: Option<K>,
        desired: &K,
    ) -> Result<Option<K>, kube::Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
        K: Clone + Debug + DeserializeOwned + Serialize,
    {
        if let Some(found) = found {
            if !may_take(&found, pool) {
                return Ok(None);
            }
            // It is made again when it is gone.
            if found.meta().deletion_timestamp.is_some() || is_as_desired(&found, desired) {
                return Ok(Some(found));
            }
        }
        tracing::info!(pool = %pool.name_any(), kind = %K::kind(&()), "applying");
        let (name, patch) = (desired.name_any(), Patch::Apply(desired));
        let params = PatchParams::apply(MANAGER).force();
        let made = self.api(desired).patch(&name, &params, &patch).await?;
        Ok(Some(made))
    }
}

fn taken(kind: &str, pool: &WorkerPool) -> Pods {
    let name = objects::name(pool);
    let why = format!("a {kind} {name} is there that is not this pool's; rename or delete it");
    Pods::Refused("NameTaken", why)
}

/// What the same request will not succeed with: it is forbidden, or something in it is wrong.
fn is_refusal(code: u16) -> bool {
    [400, 403, 422].contains(&code)
}

/// Whether an object is the pool's, or was of one of its name and is nobody's now.
fn may_take(found: &impl Resource, pool: &WorkerPool) -> bool {
    let owners = found.meta().owner_references.iter().flatten();
    match owners.into_iter().find(|o| o.controller == Some(true)) {
        Some(owner) => Some(&owner.uid) == pool.metadata.uid.as_ref(),
        None => found.labels().get(POOL_LABEL) == Some(&pool.name_any()),
    }
}

/// Whether an object has all that is wanted of it. Quantities that Kubernetes writes in other words look different: what
/// is applied then changes nothing.
fn is_as_desired<K: Resource + Serialize>(found: &K, desired: &K) -> bool {
    let (Ok(is), Ok(wanted)) = (serde_json::to_value(found), serde_json::to_value(desired)) else {
        return false;
    };
    found.annotations().get(DIGEST) == desired.annotations().get(DIGEST) && has(&is, &wanted)
}

fn has(is: &Value, wanted: &Value) -> bool {
    match (is, wanted) {
        (Value::Object(is), Value::Object(wanted)) => wanted
            .iter()
            .all(|(k, v)| is.get(k).is_some_and(|is| has(is, v))),
        (Value::Array(is), Value::Array(wanted)) => {
            is.len() == wanted.len() && std::iter::zip(is, wanted).all(|(is, v)| has(is, v))
        }
        (is, wanted) => is == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_kubernetes_adds_does_not_matter_and_what_is_changed_does() {
        let wanted = json!({"a": {"b": 1}, "l": [{"n": "x"}]});
        assert!(has(
            &json!({"a": {"b": 1, "c": 2}, "l": [{"n": "x", "d": 0}], "s": {}}),
            &wanted
        ));
        assert!(!has(&json!({"a": {"b": 2}, "l": [{"n": "x"}]}), &wanted));
        assert!(!has(
            &json!({"a": {"b": 1}, "l": [{"n": "x"}, {"n": "y"}]}),
            &wanted
        ));
        assert!(!has(&json!({"a": {"b": 1}}), &wanted));
    }

    #[test]
    fn others_objects_are_left_alone() {
        let mut pool = WorkerPool::new("p", Default::default());
        pool.metadata.uid = Some("mine".into());
        let object = |owner: Option<&str>, label: &str| {
            let owners: Vec<_> = owner
                .map(|uid| json!({"apiVersion": "v1", "kind": "K", "name": "n", "uid": uid, "controller": true}))
                .into_iter()
                .collect();
            let metadata = json!({"ownerReferences": owners, "labels": {POOL_LABEL: label}});
            let object = json!({"metadata": metadata, "spec": {"selector": {}, "template": {}}});
            serde_json::from_value::<Deployment>(object).unwrap()
        };
        assert!(may_take(&object(Some("mine"), "p"), &pool));
        assert!(may_take(&object(Some("mine"), "edited"), &pool));
        assert!(!may_take(&object(Some("other"), "p"), &pool));
        assert!(
            may_take(&object(None, "p"), &pool),
            "left by an earlier pool"
        );
        assert!(!may_take(&object(None, ""), &pool));
    }

    #[test]
    fn a_change_during_a_look_is_not_forgotten() {
        let (seen, key) = (Seen::default(), PoolKey::new("n", "p"));
        let begin = || drop(seen.all().insert(key.clone(), Look::Begun));
        begin();
        seen.keep(&key, 1, &Pods::None, |_| true);
        assert_eq!(seen.recent(&key, 1), Some(Pods::None));
        assert_eq!(seen.recent(&key, 2), None, "another generation");
        begin();
        seen.forget(&key);
        seen.keep(&key, 1, &Pods::None, |_| true);
        assert_eq!(seen.recent(&key, 1), None);
    }
}
