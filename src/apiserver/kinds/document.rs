//! `ate.dev/v1alpha1` WorkerPool and ActorTemplate, kept as documents: what Kubernetes serves as custom resources.

use super::{typed, violation};
use crate::api::pool::{WorkerPool, WorkerPoolSpec};
use crate::api::template::{ActorTemplate, ActorTemplateSpec};
use crate::api::validate::{self, Violation};
use crate::apiserver::meta;
use crate::apiserver::registration::{Registration, RegistrationError, Rules};
use crate::apiserver::storage::DocumentStorage;
use crate::store::Store;
use serde_json::Value;
use std::sync::Arc;

/// Pools.
pub fn worker_pool(store: Arc<dyn Store>) -> Result<Registration, RegistrationError> {
    let storage = Arc::new(DocumentStorage::new(store, "workerpools"));
    let rules = Rules {
        normalize: |_| {},
        validate: check_pool,
    };
    Registration::of::<WorkerPool>(storage, rules)
}

/// Templates.
pub fn actor_template(store: Arc<dyn Store>) -> Result<Registration, RegistrationError> {
    let storage = Arc::new(DocumentStorage::new(store, "actortemplates"));
    let rules = Rules {
        normalize: |_| {},
        validate: check_template,
    };
    Registration::of::<ActorTemplate>(storage, rules)
}

fn check_pool(object: &Value, old: Option<&Value>) -> Vec<Violation> {
    let spec: WorkerPoolSpec = match typed(object, "spec") {
        Ok(spec) => spec,
        Err(violations) => return violations,
    };
    let (name, namespace) = (meta::text(object, "name"), meta::text(object, "namespace"));
    let mut out = validate::object(name, namespace, &spec);
    let class = |o: &Value| o.pointer("/spec/sandboxClass").cloned();
    if old.is_some_and(|old| class(old) != class(object)) {
        let message = "sandboxClass is immutable: make a new pool";
        out.push(violation::in_words("spec.sandboxClass", message));
    }
    out
}

fn check_template(object: &Value, old: Option<&Value>) -> Vec<Violation> {
    let spec: ActorTemplateSpec = match typed(object, "spec") {
        Ok(spec) => spec,
        Err(violations) => return violations,
    };
    let (name, namespace) = (meta::text(object, "name"), meta::text(object, "namespace"));
    let mut out = validate::object(name, namespace, &spec);
    if old.is_some_and(|old| old.get("spec") != object.get("spec")) {
        let message =
            "spec is immutable: make a new template, for example with a content hash in its name";
        out.push(violation::in_words("spec", message));
    }
    out
}
