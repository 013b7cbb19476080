//! WorkerPool: how many warm workers there are, and of what kind.

// Columns of one kind look like repeated attributes to clippy.
#![allow(clippy::duplicated_attributes)]

use super::validate::rules;
use garde::Validate;
use k8s_openapi::api::core::v1::{Affinity, NodeAffinity, ResourceRequirements, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Label of worker pods: the name of their pool.
pub const POOL_LABEL: &str = "ate.dev/worker-pool";
/// Label of worker pods: their sandbox class.
pub const CLASS_LABEL: &str = "ate.dev/sandbox-class";

/// What kind of sandbox a worker runs. Pools have one class and never mix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SandboxClass {
    /// gVisor (runsc).
    #[default]
    Gvisor,
    /// runc with CRIU.
    Criu,
    /// A virtual machine.
    Microvm,
}

impl SandboxClass {
    /// As it is written in a spec.
    pub fn as_str(self) -> &'static str {
        match self {
            SandboxClass::Gvisor => "gvisor",
            SandboxClass::Criu => "criu",
            SandboxClass::Microvm => "microvm",
        }
    }
}

/// What happens to sandboxes of a node that could not renew its lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum OnLeaseLoss {
    /// They are paused until the lease is renewed under the same epoch.
    #[default]
    Freeze,
    /// They go on; an actor may then run twice.
    Continue,
}

/// A pool of warm workers, each of which runs at most one actor at a time.
#[derive(
    CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize, Validate,
)]
#[kube(
    group = "ate.dev",
    version = "v1alpha1",
    kind = "WorkerPool",
    namespaced,
    status = "WorkerPoolStatus",
    shortname = "wp",
    category = "ate",
    derive = "PartialEq",
    derive = "Default",
    doc = "WorkerPool keeps a number of warm workers, each of which runs at most one actor at a time.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Desired", type_ = "integer", json_path = ".spec.replicas"),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.replicas"),
    printcolumn(name = "Free", type_ = "integer", json_path = ".status.free"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct WorkerPoolSpec {
    /// How many workers there shall be.
    #[schemars(range(min = 0))]
    #[garde(range(min = 0))]
    pub replicas: i32,
    /// Image of the executor. The installation has a default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(skip)]
    pub ateom_image: Option<String>,
    /// What kind of sandbox the workers run.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("sandboxClass is immutable: make a new pool"))]
    #[garde(custom(rules::unsupported))]
    pub sandbox_class: SandboxClass,
    /// What the workers' pods look like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(skip)]
    pub template: Option<PoolTemplate>,
    /// Reserve: so many workers are kept free by suspending the idlest actors ahead.
    #[serde(default)]
    #[schemars(range(min = 0))]
    #[garde(custom(rules::unsupported))]
    pub free_workers: i32,
    /// What happens to sandboxes of a node that could not renew its lease.
    #[serde(default)]
    #[garde(custom(rules::unsupported))]
    pub on_lease_loss: OnLeaseLoss,
}

/// What the workers' pods look like.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolTemplate {
    /// Labels of the nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Taints that are tolerated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub tolerations: Option<Vec<Toleration>>,
    /// Where pods go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Short for `affinity.nodeAffinity`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_affinity: Option<NodeAffinity>,
    /// Priority class of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// Requests and limits of a worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
}

/// What is known of a pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkerPoolStatus {
    /// The generation that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Workers that exist.
    #[serde(default)]
    pub replicas: i32,
    /// Workers that can take an actor or run one.
    #[serde(default)]
    pub ready: i32,
    /// Workers that wait for an actor.
    #[serde(default)]
    pub free: i32,
    /// Workers that run an actor or are reserved for one.
    #[serde(default)]
    pub claimed: i32,
    /// Selects the workers' pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Ready, Reconciling, Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
