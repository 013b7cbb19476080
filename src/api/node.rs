//! NodeAgent: what a node said last of its slots and its disk. Read-only for users.

use super::record::{NodeRecord, WorkerPhase, WorkerRecord};
use super::time::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Nothing is wished of a node agent.
#[derive(
    CustomResource, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema,
)]
#[kube(
    group = "runtime.ate.dev",
    version = "v1alpha1",
    kind = "NodeAgent",
    status = "NodeAgentStatus",
    shortname = "na",
    category = "ate",
    derive = "PartialEq",
    derive = "Default",
    doc = "NodeAgent is what a node said last of its slots and its disk. It is read-only."
)]
pub struct NodeAgentSpec {}

/// What is known of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeAgentStatus {
    /// Ready, or Lost when its lease has lapsed: its sandboxes stand still then.
    pub phase: String,
    /// `host:port` where it takes orders.
    pub address: String,
    /// Build of the runtime of templates that name none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub runtime: String,
    /// Its slots, each of which is a worker.
    pub slots: SlotCount,
    /// Its disk.
    pub usage: NodeUsage,
}

/// How many slots a node has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SlotCount {
    /// All of them.
    pub total: usize,
    /// Those that an actor may claim.
    pub free: usize,
    /// Those that an actor holds.
    pub claimed: usize,
}

/// What a node's snapshots take of its disk, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeUsage {
    /// All copies of snapshots.
    pub cache_bytes: u64,
    /// Those of them that are nowhere else: what is being published, and what is paused.
    pub spool_bytes: u64,
    /// What each of the two may take.
    pub capacity_bytes: u64,
}

impl NodeAgent {
    /// The node of `record`, with those of `workers` that are on it, at `now` by the store's clock.
    pub fn of(record: &NodeRecord, workers: &[WorkerRecord], now: Timestamp) -> NodeAgent {
        let own = || workers.iter().filter(|w| w.node == record.name);
        let phase = if record.lease > now { "Ready" } else { "Lost" };
        NodeAgent {
            metadata: ObjectMeta {
                name: Some(record.name.clone()),
                ..ObjectMeta::default()
            },
            spec: NodeAgentSpec {},
            status: Some(NodeAgentStatus {
                phase: phase.to_owned(),
                address: record.address.clone(),
                runtime: record.runtime.map(|r| r.to_string()).unwrap_or_default(),
                slots: SlotCount {
                    total: own().count(),
                    free: own().filter(|w| w.phase.is_claimable()).count(),
                    claimed: own().filter(|w| w.phase == WorkerPhase::Claimed).count(),
                },
                usage: record.usage,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_its_own_slots_and_is_lost_when_its_lease_has_lapsed() {
        let worker = |node: &str, phase| WorkerRecord {
            node: node.to_owned(),
            phase,
            ..WorkerRecord::default()
        };
        let workers = [
            worker("n1", WorkerPhase::Free),
            worker("n1", WorkerPhase::Claimed),
            worker("n1", WorkerPhase::Dirty),
            worker("n2", WorkerPhase::Free),
        ];
        let record = NodeRecord {
            name: "n1".to_owned(),
            lease: Timestamp(10),
            ..NodeRecord::default()
        };
        let at = |now| NodeAgent::of(&record, &workers, now).status.unwrap();
        let (total, free, claimed) = (3, 1, 1);
        let slots = SlotCount {
            total,
            free,
            claimed,
        };
        assert_eq!(
            (at(Timestamp(9)).slots, &*at(Timestamp(9)).phase),
            (slots, "Ready")
        );
        assert_eq!(at(Timestamp(10)).phase, "Lost");
    }
}
