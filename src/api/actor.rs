//! Actor: a stateful session that sleeps and wakes.

use super::record::OperatingMode;
use super::validate::{Cause, rules};
use garde::Validate;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, MicroTime, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is wanted of an actor, as policy.
#[derive(
    CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, Validate,
)]
#[kube(
    group = "runtime.ate.dev",
    version = "v1alpha1",
    kind = "Actor",
    namespaced,
    status = "ActorStatus",
    shortname = "act",
    category = "ate",
    derive = "PartialEq",
    derive = "Default",
    doc = "Actor is a stateful session. It sleeps in object storage while idle and wakes on the next request."
)]
#[serde(rename_all = "camelCase")]
pub struct ActorSpec {
    /// The template. May change only while the actor is Suspended.
    #[garde(dive)]
    pub template_ref: TemplateRef,
    /// OnDemand: sleeps when idle, wakes on traffic. Running: kept awake. Suspended: does not wake.
    #[serde(default)]
    #[garde(custom(may_sleep))]
    pub operating_mode: OperatingMode,
    /// Labels of the pools whose workers may run it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(inner(custom(rules::selector)))]
    pub worker_selector: Option<LabelSelector>,
    /// Fork at creation; immutable. Default: the template's golden snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(custom(rules::unsupported))]
    pub from: Option<ForkSource>,
    /// Overrides the template's idle times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(dive)]
    pub idle: Option<ActorIdle>,
}

/// Nothing keeps an actor awake yet.
fn may_sleep(mode: &OperatingMode, _: &()) -> garde::Result {
    rules::ensure(*mode != OperatingMode::Running, Cause::NotSupported, || {
        "Running is not supported by this version; use OnDemand or Suspended".to_owned()
    })
}

/// Names a template.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
pub struct TemplateRef {
    /// Its name.
    #[garde(custom(rules::given("name the ActorTemplate")), length(max = 253))]
    pub name: String,
    /// Its namespace; default: the actor's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(inner(custom(rules::dns_label)))]
    pub namespace: Option<String>,
}

/// What a new actor starts from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ForkSource {
    /// Another actor's newest durable snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// A snapshot by its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
}

/// Overrides of the template's idle times, as Kubernetes durations (`90s`, `15m`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(rename_all = "camelCase")]
pub struct ActorIdle {
    /// Suspend after this long without activity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(custom(rules::unsupported), inner(custom(rules::duration)))]
    pub suspend_after: Option<String>,
    /// Pause after this long without activity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[garde(custom(rules::unsupported), inner(custom(rules::duration)))]
    pub pause_after: Option<String>,
}

/// What is known of an actor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActorStatus {
    /// The generation that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Suspended, Resuming, Running, Pausing, Paused or Suspending.
    #[serde(default)]
    pub phase: String,
    /// Ready, Awake, and RolledBack, ColdBoot, CrashLoop, Stalled where they apply.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// What old clients call it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Counts the operations begun on it.
    #[serde(default)]
    pub epoch: i64,
    /// Host name that requests are sent to.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// Where it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerStatusRef>,
    /// What the next resume starts from, where it has one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotStatus>,
    /// When a request or an operation last touched it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_activity_time: Option<Time>,
    /// Its last change of phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition: Option<Transition>,
}

/// Where an actor runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerStatusRef {
    /// The worker's namespace.
    pub namespace: String,
    /// The worker.
    pub name: String,
    /// Its pool.
    pub pool: String,
    /// Its node.
    pub node: String,
    /// Its address.
    pub ip: String,
}

/// A snapshot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SnapshotStatus {
    /// Its id.
    pub id: String,
    /// Golden, Durable or Local.
    pub kind: String,
    /// Where it lies.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uri: String,
    /// Bytes that were stored for it: what was new.
    #[serde(default)]
    pub bytes: i64,
    /// When it was complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<Time>,
    /// Nodes that hold it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub nodes: Vec<String>,
}

/// A change of phase.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Transition {
    /// Where it led.
    pub to: String,
    /// When it began.
    pub start: MicroTime,
    /// How long it took, as a Kubernetes duration.
    pub duration: String,
    /// Its steps, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub steps: Vec<TransitionStep>,
}

/// A step of a change of phase.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TransitionStep {
    /// As its span is named.
    pub name: String,
    /// How long it took, as a Kubernetes duration.
    pub duration: String,
}
