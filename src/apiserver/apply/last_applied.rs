//! The annotation in which `kubectl apply` without server-side apply keeps what it sent last. Only kubectl is given
//! what it owned by it, and keeps it up to date (managedfields/internal/lastappliedmanager.go, lastappliedupdater.go).

use super::compare::{compare, fields_of};
use super::items;
use super::set::FieldSet;
use super::types::Type;
use serde_json::{Map, Value};

/// The manager as which kubectl applies unless told otherwise.
pub const KUBECTL: &str = "kubectl";
const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// All annotations together (apimachinery/pkg/api/validation/objectmeta.go).
const MAX_ANNOTATIONS: usize = 256 << 10;

fn of(object: &Value) -> Option<&str> {
    let text = object["metadata"]["annotations"][ANNOTATION].as_str()?;
    Some(text).filter(|t| !t.is_empty())
}

fn annotations_of(object: &mut Value) -> Option<&mut Map<String, Value>> {
    object.pointer_mut("/metadata/annotations")?.as_object_mut()
}

/// The fields that kubectl set by client-side apply and that nobody changed since: it may take them over.
pub fn owned(types: &Type, live: &Value, version: &str) -> Option<FieldSet> {
    let last: Value = serde_json::from_str(of(live)?).ok()?;
    let same_version = last["apiVersion"].as_str() == Some(version);
    if !same_version || !items::check(types, &last).is_empty() {
        return None;
    }
    let changes = compare(types, &last, live);
    let changed = changes.modified.union(&changes.added);
    Some(fields_of(types, &last).difference(&changed.union(&changes.removed)))
}

/// Writes what was applied into the annotation, if there is one.
pub fn refresh(object: &mut Value, applied: &Value) {
    if of(object).is_none() {
        return;
    }
    let mut applied = applied.clone();
    if let Some(own) = annotations_of(&mut applied) {
        own.remove(ANNOTATION);
    }
    let Some(annotations) = annotations_of(object) else {
        return;
    };
    // With the line feed that Kubernetes' encoder writes.
    annotations.insert(ANNOTATION.into(), format!("{applied}\n").into());
    let size = |(key, value): (&String, &Value)| key.len() + value.as_str().map_or(0, str::len);
    if annotations.iter().map(size).sum::<usize>() > MAX_ANNOTATIONS {
        annotations.remove(ANNOTATION);
    }
}
