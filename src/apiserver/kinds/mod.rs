//! The kinds that we serve, as registrations.
//!
//! What a kind is called, its schema, columns and scale come from its type in `api`; here is the rest: where it is kept,
//! and the rules that a schema cannot say.

mod actor;
mod document;
mod namespace;
mod node;
mod worker;

pub use actor::actor;
pub use document::{actor_template, worker_pool};
pub use namespace::namespaces;
pub use node::node_agent;
pub use worker::worker;

use super::driver::ActorDriver;
use super::meta;
use super::registration::{Registration, RegistrationError};
use super::violation;
use crate::api::time::Timestamp;
use crate::api::validate::Violation;
use crate::kube::{ActorCaps, Catalog};
use crate::store::Store;
use serde_json::Value;
use std::sync::Arc;

/// Everything that `ate dev` serves. `caps` bound the actors of namespaces.
pub fn dev(
    store: &Arc<dyn Store>,
    driver: &Arc<dyn ActorDriver>,
    catalog: &Arc<dyn Catalog>,
    caps: ActorCaps,
) -> Result<Vec<Registration>, RegistrationError> {
    let mut all = vec![
        actor(store.clone(), driver.clone(), catalog.clone(), caps)?,
        worker(store.clone())?,
        node_agent(store.clone())?,
        worker_pool(store.clone())?,
        actor_template(store.clone())?,
    ];
    let namespaced = all.iter().filter(|r| r.namespaced);
    let storages = namespaced.map(|r| r.storage.clone()).collect();
    all.push(namespaces(storages)?);
    Ok(all)
}

/// What a cluster serves here: templates, pools and namespaces are Kubernetes' own. `caps` bound the actors of namespaces.
pub fn cluster(
    store: &Arc<dyn Store>,
    driver: &Arc<dyn ActorDriver>,
    catalog: &Arc<dyn Catalog>,
    caps: ActorCaps,
) -> Result<Vec<Registration>, RegistrationError> {
    Ok(vec![
        actor(store.clone(), driver.clone(), catalog.clone(), caps)?,
        worker(store.clone())?,
        node_agent(store.clone())?,
    ])
}

/// Text at a pointer, or `<none>`.
fn text(object: &Value, pointer: &str) -> String {
    let found = object.pointer(pointer).and_then(Value::as_str);
    found
        .filter(|t| !t.is_empty())
        .unwrap_or("<none>")
        .to_owned()
}

/// A number of bytes, in the unit that says enough.
fn bytes(bytes: u64) -> String {
    match bytes {
        0 => "0".to_owned(),
        bytes if bytes >= 10 << 20 => format!("{}Mi", bytes >> 20),
        bytes => format!("{}Ki", bytes.div_ceil(1 << 10)),
    }
}

/// The status of a condition; empty where there is none.
fn condition(object: &Value, kind: &str) -> String {
    let all = object
        .pointer("/status/conditions")
        .and_then(Value::as_array);
    let of = |c: &&Value| c.get("type").and_then(Value::as_str) == Some(kind);
    let found = all.and_then(|all| all.iter().find(of));
    let status = found.and_then(|c| c.get("status")?.as_str());
    status.unwrap_or_default().to_owned()
}

fn age(object: &Value, now: Timestamp) -> String {
    super::table::age(meta::text(object, "creationTimestamp"), now)
}

/// The object as its type; what the schema let pass and the type does not is a violation too.
fn typed<T: serde::de::DeserializeOwned>(object: &Value, field: &str) -> Result<T, Vec<Violation>> {
    let part = object.get(field).cloned().unwrap_or_default();
    serde_json::from_value(part).map_err(|e| vec![violation::in_words(field, e.to_string())])
}
