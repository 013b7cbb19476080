//! Which workers go first when a pool shrinks or its pods are replaced: those that hold no actor. Kubernetes chooses by an
//! annotation of the pods. It is written only before pods may be deleted: claims come and go by the thousand between.

use super::MANAGER;
use super::objects::DIGEST;
use crate::api::PoolKey;
use crate::api::pool::POOL_LABEL;
use crate::api::record::WorkerRecord;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// What Kubernetes reads: pods with a lower cost go first, those without one count as 0.
const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// Of a worker that holds an actor.
const BUSY: &str = "100";
/// Pods written at once.
const AT_ONCE: usize = 8;

/// Whether a Deployment may delete pods when it is made as wanted.
pub(super) fn will_delete(is: &Deployment, wanted: &Deployment) -> bool {
    let replicas = |d: &Deployment| d.spec.as_ref().and_then(|s| s.replicas);
    let digest = |d: &Deployment| d.annotations().get(DIGEST).cloned();
    replicas(wanted) < replicas(is) || digest(wanted) != digest(is)
}

/// Marks the pods of a pool whose workers hold an actor, and no others.
pub(super) async fn mark(
    client: &Client,
    pool: &PoolKey,
    workers: &[WorkerRecord],
) -> Result<(), kube::Error> {
    let busy = workers.iter().filter(|w| w.claim.is_some());
    let busy: BTreeSet<_> = busy.map(|w| w.key.name.as_str()).collect();
    let api: Api<Pod> = Api::namespaced(client.clone(), &pool.namespace);
    let of_pool = ListParams::default().labels(&format!("{POOL_LABEL}={}", pool.name));
    let pods = api.list_metadata(&of_pool).await?.items;
    let changes = pods.iter().filter_map(|pod| {
        let name = pod.name_any();
        let is = pod.annotations().get(COST).map(String::as_str);
        change(is, busy.contains(name.as_str())).map(|cost| (name, cost))
    });
    let params = PatchParams::apply(MANAGER);
    let writes = changes.map(|(name, cost)| {
        let (api, params) = (&api, &params);
        let patch = json!({"metadata": {"annotations": {COST: cost}}});
        async move {
            match api
                .patch_metadata(&name, params, &Patch::Merge(patch))
                .await
            {
                Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
                other => other.map(|_| ()),
            }
        }
    });
    let writes: Vec<_> = writes.collect();
    stream::iter(writes)
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

/// What is to be written over a pod's cost; null takes it away.
fn change(is: Option<&str>, busy: bool) -> Option<Value> {
    match (is, busy) {
        (Some(BUSY), true) | (None, false) => None,
        (_, true) => Some(BUSY.into()),
        (Some(_), false) => Some(Value::Null),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_written() {
        assert_eq!(change(None, false), None);
        assert_eq!(change(Some(BUSY), true), None);
        assert_eq!(change(None, true), Some(BUSY.into()));
        assert_eq!(change(Some("7"), true), Some(BUSY.into()));
        assert_eq!(change(Some(BUSY), false), Some(Value::Null));
    }
}
