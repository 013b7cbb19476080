//! The rules of `metadata` that hold for every kind (apiserver/pkg/registry/rest, apimachinery/pkg/api/validation).

use super::registration::{Registration, StatusSupport};
use super::selector::{is_label_key, is_label_value, is_subdomain};
use super::status::ApiError;
use super::storage::{ObjectKey, Part};
use crate::api::time::Timestamp;
use crate::api::validate::{Cause, Violation};
use serde_json::{Map, Value};

/// Letters of generated suffixes: no vowels and nothing that looks like another (apimachinery/pkg/util/rand).
const SUFFIX_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
/// What is kept of `generateName`.
const MAX_GENERATED_BASE: usize = 58;
/// Keys and values of all annotations together.
const MAX_ANNOTATIONS: usize = 256 << 10;
/// What users write, of `metadata`.
const USERS: [&str; 6] = [
    "name",
    "namespace",
    "labels",
    "annotations",
    "finalizers",
    "ownerReferences",
];
/// What only we write, of `metadata`.
const OURS: [&str; 9] = [
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "selfLink",
    "generateName",
];

fn map(object: &Value) -> Option<&Map<String, Value>> {
    object.get("metadata").and_then(Value::as_object)
}

/// A text in an object's metadata; empty where there is none.
pub fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    map(object)
        .and_then(|m| m.get(field))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Refuses an object of another kind or version than the path's.
pub fn check_kind(registration: &Registration, object: &Value) -> Result<(), ApiError> {
    let of = |field| {
        object
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (api_version, kind) = (of("apiVersion"), of("kind"));
    if api_version.is_empty() || kind.is_empty() {
        let missing = if kind.is_empty() {
            "kind"
        } else {
            "apiVersion"
        };
        return Err(ApiError::BadRequest(format!(
            "the object's {missing} is not set"
        )));
    }
    if kind != registration.kind || api_version != registration.api_version() {
        return Err(ApiError::BadRequest(format!(
            "the object provided is a {api_version} {kind}, but the path expects a {} {}",
            registration.api_version(),
            registration.kind
        )));
    }
    match object.get("metadata") {
        None | Some(Value::Object(_)) => Ok(()),
        Some(_) => Err(ApiError::BadRequest("metadata is not an object".into())),
    }
}

/// Makes the object's namespace the path's; another one is refused.
pub fn check_namespace(object: &mut Value, namespace: &str) -> Result<(), ApiError> {
    let own = text(object, "namespace");
    if !own.is_empty() && own != namespace {
        return Err(ApiError::BadRequest(format!(
            "the namespace of the provided object does not match the namespace sent on the request: {own:?} and {namespace:?}"
        )));
    }
    set(object, "namespace", namespace.into());
    Ok(())
}

/// Sets a field of the metadata.
pub fn set(object: &mut Value, field: &str, value: Value) {
    let Some(object) = object.as_object_mut() else {
        return;
    };
    let metadata = object
        .entry("metadata")
        .or_insert_with(|| Value::Object(Map::new()));
    if let Some(metadata) = metadata.as_object_mut() {
        metadata.insert(field.to_owned(), value);
    }
}

/// Removes a field of the metadata.
pub fn remove(object: &mut Value, field: &str) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove(field);
    }
}

/// Removes what no metadata has, and names it; nulls and empty maps and lists go without a word.
pub fn prune(object: &mut Value) -> Vec<String> {
    let mut unknown = vec![];
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|key, value| {
            let known = USERS.contains(&key.as_str()) || OURS.contains(&key.as_str());
            if !known {
                unknown.push(format!("metadata.{key}"));
            }
            let empty = match value {
                Value::Null => true,
                Value::Object(m) => m.is_empty(),
                Value::Array(a) => a.is_empty(),
                _ => false,
            };
            known && !empty
        });
    }
    unknown
}

/// The name of a new object, from `generateName` where it has none of its own.
pub fn new_name(object: &Value) -> Option<String> {
    let name = text(object, "name");
    if !name.is_empty() {
        return Some(name.to_owned());
    }
    let base = text(object, "generateName");
    let base: String = base.chars().take(MAX_GENERATED_BASE).collect();
    let letter = |_| {
        let index = rand::random_range(0..SUFFIX_LETTERS.len());
        char::from(SUFFIX_LETTERS[index])
    };
    let suffix: String = (0..SUFFIX_LENGTH).map(letter).collect();
    (!base.is_empty()).then(|| format!("{base}{suffix}"))
}

/// Makes the metadata of a new object: what users wrote, and our own.
pub fn begin(registration: &Registration, object: &mut Value, key: &ObjectKey) {
    let generate = text(object, "generateName").to_owned();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|field, _| USERS.contains(&field.as_str()));
    }
    set(object, "name", key.name.as_str().into());
    if registration.namespaced {
        set(object, "namespace", key.namespace.as_str().into());
    }
    if !generate.is_empty() {
        set(object, "generateName", generate.into());
    }
    set(object, "uid", uuid::Uuid::new_v4().to_string().into());
    set(
        object,
        "creationTimestamp",
        Timestamp::now().to_rfc3339().into(),
    );
    set(object, "generation", 1.into());
    if registration.status != StatusSupport::None
        && let Some(object) = object.as_object_mut()
    {
        object.remove("status");
    }
}

/// Makes `new` a replacement of `old`: what the part leaves alone is the old one's, and the generation moves with the spec.
pub fn succeed(old: &Value, new: &mut Value, part: Part) {
    let keep = |new: &mut Value, field: &str| match old.get(field) {
        Some(value) => new[field] = value.clone(),
        None => {
            if let Some(new) = new.as_object_mut() {
                new.remove(field);
            }
        }
    };
    match part {
        Part::Status => {
            let status = new.get("status").cloned();
            *new = old.clone();
            match status {
                Some(status) => new["status"] = status,
                None => {
                    if let Some(new) = new.as_object_mut() {
                        new.remove("status");
                    }
                }
            }
        }
        Part::Spec => {
            keep(new, "status");
            for field in OURS {
                match map(old).and_then(|m| m.get(field)) {
                    Some(value) => set(new, field, value.clone()),
                    None => remove(new, field),
                }
            }
        }
    }
}

/// Whether anything but metadata and status differs.
pub fn spec_differs(old: &Value, new: &Value) -> bool {
    let rest = |object: &Value| {
        let mut rest = object.as_object().cloned().unwrap_or_default();
        rest.remove("metadata");
        rest.remove("status");
        rest
    };
    rest(old) != rest(new)
}

/// Raises the generation by one.
pub fn bump(object: &mut Value) {
    let generation = map(object).and_then(|m| m.get("generation")?.as_i64());
    set(object, "generation", (generation.unwrap_or(0) + 1).into());
}

/// Marks an object as being deleted; false if it is already.
pub fn mark_deleted(object: &mut Value) -> bool {
    if super::storage::is_deleting(object) {
        return false;
    }
    bump(object);
    set(
        object,
        "deletionTimestamp",
        Timestamp::now().to_rfc3339().into(),
    );
    set(object, "deletionGracePeriodSeconds", 0.into());
    true
}

/// What is wrong with what users wrote of the metadata. `old` is what it replaces.
pub fn check(object: &Value, old: Option<&Value>) -> Vec<Violation> {
    let mut out = vec![];
    let mut wrong = |field: &str, message: String| {
        out.push(Violation {
            field: format!("metadata.{field}"),
            cause: Cause::Invalid,
            message,
        });
    };
    let name = text(object, "name");
    if !is_subdomain(name) {
        wrong(
            "name",
            format!("{name:?} is not a name: use lower-case letters, digits, '-' and '.'"),
        );
    }
    if let Some(old) = old {
        for field in ["name", "namespace"] {
            if text(object, field) != text(old, field) {
                wrong(field, "field is immutable".into());
            }
        }
    }
    let Some(metadata) = map(object) else {
        return out;
    };
    for (field, check) in [
        ("labels", is_label_value as fn(&str) -> bool),
        ("annotations", |_| true),
    ] {
        match metadata.get(field) {
            None => {}
            Some(Value::Object(all)) => {
                for (key, value) in all {
                    if !is_label_key(key) {
                        wrong(field, format!("{key:?} is not a key: write [prefix/]name"));
                    }
                    if !value.as_str().is_some_and(check) {
                        wrong(field, format!("{value} is not a value for {key:?}"));
                    }
                }
                let size: usize = all
                    .iter()
                    .map(|(k, v)| k.len() + v.as_str().map_or(0, str::len))
                    .sum();
                if size > MAX_ANNOTATIONS {
                    wrong(field, format!("may have at most {MAX_ANNOTATIONS} bytes"));
                }
            }
            Some(_) => wrong(field, "must be a map of text".into()),
        }
    }
    check_finalizers(metadata, old, &mut wrong);
    check_owners(metadata, &mut wrong);
    out
}

fn check_finalizers(
    metadata: &Map<String, Value>,
    old: Option<&Value>,
    wrong: &mut impl FnMut(&str, String),
) {
    let Some(finalizers) = metadata.get("finalizers") else {
        return;
    };
    let Some(all) = finalizers.as_array() else {
        return wrong("finalizers", "must be a list".into());
    };
    let before = old.and_then(|o| map(o)?.get("finalizers")?.as_array());
    let deleting = old.is_some_and(super::storage::is_deleting);
    for finalizer in all {
        if !finalizer.as_str().is_some_and(is_label_key) {
            wrong(
                "finalizers",
                format!("{finalizer} is not a name: write prefix/name"),
            );
        } else if deleting && before.is_none_or(|b| !b.contains(finalizer)) {
            wrong(
                "finalizers",
                format!("{finalizer} cannot be added: the object is being deleted"),
            );
        }
    }
}

fn check_owners(metadata: &Map<String, Value>, wrong: &mut impl FnMut(&str, String)) {
    let Some(owners) = metadata.get("ownerReferences") else {
        return;
    };
    let complete = |owner: &Value| {
        ["apiVersion", "kind", "name", "uid"].iter().all(|f| {
            owner
                .get(f)
                .and_then(Value::as_str)
                .is_some_and(|v| !v.is_empty())
        })
    };
    if !owners
        .as_array()
        .is_some_and(|all| all.iter().all(complete))
    {
        wrong(
            "ownerReferences",
            "each needs apiVersion, kind, name and uid".into(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_replacement_keeps_what_is_not_its_own() {
        let old = json!({"metadata": {"name": "a", "uid": "u", "generation": 1, "resourceVersion": "5"},
            "spec": {"x": 1}, "status": {"y": 1}});
        let mut new = json!({"metadata": {"name": "a", "uid": "other", "labels": {"l": "1"}}, "spec": {"x": 2}, "status": {"y": 2}});
        let sent = new.clone();
        succeed(&old, &mut new, Part::Spec);
        assert_eq!(
            new,
            json!({"metadata": {"name": "a", "uid": "u", "generation": 1, "resourceVersion": "5", "labels": {"l": "1"}},
                "spec": {"x": 2}, "status": {"y": 1}})
        );
        assert!(spec_differs(&old, &new));
        let mut status = sent;
        succeed(&old, &mut status, Part::Status);
        assert_eq!(status["spec"], old["spec"]);
        assert_eq!(status["metadata"], old["metadata"]);
        assert_eq!(status["status"]["y"], 2);
    }

    #[test]
    fn names_are_generated() {
        let name = new_name(&json!({"metadata": {"generateName": "a-"}})).unwrap();
        assert!(name.starts_with("a-") && name.len() == 7, "{name}");
        let long = "x".repeat(80);
        let name = new_name(&json!({"metadata": {"generateName": long}})).unwrap();
        assert_eq!(name.len(), 63);
        assert_eq!(new_name(&json!({"metadata": {}})), None);
    }

    #[test]
    fn bad_metadata_is_named() {
        let all = check(
            &json!({"metadata": {"name": "A", "labels": {"a b": "x", "c": "-"}, "annotations": {"k": 1},
                "finalizers": ["x y"], "ownerReferences": [{"name": "o"}]}}),
            None,
        );
        let fields: Vec<_> = all.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "metadata.name",
                "metadata.labels",
                "metadata.labels",
                "metadata.annotations",
                "metadata.finalizers",
                "metadata.ownerReferences"
            ]
        );
    }

    #[test]
    fn no_finalizer_is_added_to_the_dying() {
        let old = json!({"metadata": {"name": "a", "deletionTimestamp": "t", "finalizers": ["a/b", "c/d"]}});
        let with = |f: Value| json!({"metadata": {"name": "a", "finalizers": f}});
        assert!(check(&with(json!(["a/b"])), Some(&old)).is_empty());
        assert_eq!(check(&with(json!(["a/b", "e/f"])), Some(&old)).len(), 1);
    }
}
