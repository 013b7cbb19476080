//! `runtime.ate.dev/v1alpha1 NodeAgent`, read-only.

use super::{bytes, text};
use crate::api::node::NodeAgent;
use crate::apiserver::registration::{NAME, Registration, RegistrationError, Rules, StatusSupport};
use crate::apiserver::storage::NodeStorage;
use crate::apiserver::table::Column;
use crate::store::Store;
use serde_json::Value;
use std::sync::Arc;

/// Node agents, as they reported last.
pub fn node_agent(store: Arc<dyn Store>) -> Result<Registration, RegistrationError> {
    let rules = Rules {
        normalize: |_| {},
        validate: |_, _| vec![],
    };
    let mut node = Registration::of::<NodeAgent>(Arc::new(NodeStorage::new(store)), rules)?;
    node.verbs = &["get", "list"];
    node.status = StatusSupport::None;
    node.selectable = vec![NAME];
    let of = Column::text;
    node.columns = vec![
        of(
            "Phase",
            "Ready, or Lost when its lease has lapsed.",
            false,
            |o, _| text(o, "/status/phase"),
        ),
        of("Slots", "How many it has.", false, |o, _| count(o, "total")),
        of("Free", "Slots that an actor may claim.", false, |o, _| {
            count(o, "free")
        }),
        of("Claimed", "Slots that an actor holds.", false, |o, _| {
            count(o, "claimed")
        }),
        of("Cache", "What copies of snapshots take.", false, |o, _| {
            usage(o, "cacheBytes")
        }),
        of(
            "Spool",
            "What snapshots take that are nowhere else.",
            false,
            |o, _| usage(o, "spoolBytes"),
        ),
        of(
            "Capacity",
            "What each of the two may take.",
            false,
            |o, _| usage(o, "capacityBytes"),
        ),
        of(
            "Runtime",
            "Build of the runtime of templates that name none.",
            true,
            |o, _| text(o, "/status/runtime"),
        ),
        of("Address", "Where it takes orders.", true, |o, _| {
            text(o, "/status/address")
        }),
    ];
    Ok(node)
}

fn count(object: &Value, field: &str) -> String {
    let found = object.pointer("/status/slots").and_then(|s| s.get(field));
    found.map(Value::to_string).unwrap_or_default()
}

fn usage(object: &Value, field: &str) -> String {
    let found = object.pointer("/status/usage").and_then(|s| s.get(field));
    bytes(found.and_then(Value::as_u64).unwrap_or_default())
}
