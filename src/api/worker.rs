//! Worker: a warm pod that runs at most one actor at a time. Read-only for users.

use super::record::{WorkerPhase, WorkerRecord};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A worker has nothing to wish for; pools have.
#[derive(
    CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema,
)]
#[kube(
    group = "runtime.ate.dev",
    version = "v1alpha1",
    kind = "Worker",
    namespaced,
    status = "WorkerStatus",
    shortname = "wk",
    category = "ate",
    derive = "PartialEq",
    derive = "Default",
    doc = "Worker is a warm pod that runs at most one actor at a time. It is read-only."
)]
pub struct WorkerSpec {}

/// What is known of a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerStatus {
    /// Free, Claimed, Draining, Dirty or Lost.
    pub phase: String,
    /// Its pool.
    pub pool: String,
    /// Its node.
    pub node: String,
    /// Its address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ip: String,
    /// Uid of its pod.
    #[serde(default, rename = "podUID", skip_serializing_if = "String::is_empty")]
    pub pod_uid: String,
    /// The actor that holds it, as `namespace/name`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub actor: String,
    /// What kind of sandbox it runs.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sandbox_class: String,
}

/// Uid of a worker: that of its pod, and when the pod's container was started again, one of its own, for it has nothing of what the
/// `earlier` ones had.
pub fn worker_uid(pod: &str, earlier: u64) -> String {
    match earlier {
        0 => pod.to_owned(),
        n => format!("{pod}.{n}"),
    }
}

/// The pod's uid in a worker's.
pub fn pod_uid(worker: &str) -> &str {
    worker.split_once('.').map_or(worker, |(pod, _)| pod)
}

impl From<&WorkerRecord> for Worker {
    fn from(record: &WorkerRecord) -> Self {
        Worker {
            metadata: ObjectMeta {
                name: Some(record.key.name.clone()),
                namespace: Some(record.key.namespace.clone()),
                uid: Some(record.uid.clone()),
                resource_version: Some(record.resource_version.to_string()),
                creation_timestamp: Some(record.created.to_time()),
                labels: Some(
                    [(super::pool::POOL_LABEL.to_owned(), record.pool.name.clone())].into(),
                ),
                ..ObjectMeta::default()
            },
            spec: WorkerSpec {},
            status: Some(WorkerStatus {
                phase: record.phase.to_string(),
                pool: record.pool.name.clone(),
                node: record.node.clone(),
                ip: record.ip.clone(),
                pod_uid: pod_uid(&record.uid).to_owned(),
                actor: record
                    .claim
                    .as_ref()
                    .map(|c| c.actor.to_string())
                    .unwrap_or_default(),
                sandbox_class: record.sandbox_class.clone(),
            }),
        }
    }
}

impl WorkerPhase {
    /// Whether a claim may take it.
    pub fn is_claimable(self) -> bool {
        match self {
            WorkerPhase::Free => true,
            WorkerPhase::Claimed
            | WorkerPhase::Draining
            | WorkerPhase::Dirty
            | WorkerPhase::Lost => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_executors_of_a_pod_have_one_uid() {
        let uids = [0, 1, 2].map(|earlier| worker_uid("p", earlier));
        assert_eq!(uids, ["p", "p.1", "p.2"]);
        assert!(uids.iter().all(|uid| pod_uid(uid) == "p"));
    }
}
