//! The rules of `metadata` that hold for every kind (apiserver/pkg/registry/rest, apimachinery/pkg/api/validation).

use super::registration::{Registration, StatusSupport};
use super::selector::{is_label_key, is_label_value, is_subdomain};
use super::status::ApiError;
use super::storage::{ObjectKey, Part};
use super::violation;
use crate::api::time::Timestamp;
use crate::api::validate::Violation;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value};

/// Letters of generated suffixes: no vowels and nothing that looks like another (apimachinery/pkg/util/rand).
const SUFFIX_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
/// What is kept of `generateName`.
const MAX_GENERATED_BASE: usize = 58;
/// Keys and values of all annotations together.
const MAX_ANNOTATIONS: usize = 256 << 10;
/// What users write, of `metadata`.
const USERS: [&str; 7] = [
    "name",
    "generateName",
    "namespace",
    "labels",
    "annotations",
    "finalizers",
    "ownerReferences",
];
/// What only we write, of `metadata`.
const OURS: [&str; 8] = [
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "selfLink",
];
/// Finalizers by which the garbage collector deals with dependents.
pub const ORPHAN: &str = "orphan";
pub const FOREGROUND: &str = "foregroundDeletion";
/// Finalizers that Kubernetes has without a domain.
const STANDARD_FINALIZERS: [&str; 3] = [ORPHAN, FOREGROUND, "kubernetes"];
/// What names may be (apimachinery/pkg/util/validation).
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";

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
        return Err(ApiError::BadRequest(
            "the namespace of the provided object does not match the namespace sent on the request"
                .into(),
        ));
    }
    set(object, "namespace", namespace.into());
    Ok(())
}

/// Refuses an object of another name than the path's. One without name has the path's, unless it `must` have one.
pub fn check_name(object: &Value, name: &str, must: bool) -> Result<(), ApiError> {
    let own = text(object, "name");
    if own == name || (own.is_empty() && !must) {
        return Ok(());
    }
    Err(ApiError::BadRequest(if own.is_empty() {
        format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        )
    } else {
        format!("the name of the object ({own}) does not match the name on the URL ({name})")
    }))
}

/// What is wrong with the types of the metadata's fields.
pub fn check_types(object: &Value) -> Result<(), String> {
    let Some(metadata) = object.get("metadata") else {
        return Ok(());
    };
    let typed = serde_json::from_value::<ObjectMeta>(metadata.clone());
    typed.map(drop).map_err(|e| format!("metadata: {e}"))
}

/// What nobody can change of an object.
pub fn immutable(old: &Value, new: &Value) -> Vec<Violation> {
    let changed = |field: &&str| {
        let asked = map(new).and_then(|m| m.get(*field));
        let is = map(old).and_then(|m| m.get(*field));
        asked.is_some_and(|a| !a.is_null() && *a != "") && asked != is
    };
    let fields = ["uid", "deletionTimestamp"].into_iter().filter(changed);
    fields
        .map(|field| violation::invalid(&path(field), text(new, field), "field is immutable"))
        .collect()
}

/// Keeps one reference to each owner; says so where there were more.
pub fn dedup_owners(object: &mut Value) -> Option<String> {
    let owners = object.pointer_mut("/metadata/ownerReferences");
    let owners = owners.and_then(Value::as_array_mut)?;
    let (mut seen, mut twice) = (vec![], vec![]);
    owners.retain(|owner| {
        let uid = owner["uid"].as_str().unwrap_or_default().to_owned();
        let new = !seen.contains(&uid);
        (if new { &mut seen } else { &mut twice }).push(uid);
        new
    });
    (!twice.is_empty()).then(|| {
        format!(
            ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            twice.join(", ")
        )
    })
}

/// What is not wrong, but better otherwise.
pub fn warnings(object: &Value) -> Vec<String> {
    let finalizers = map(object).and_then(|m| m.get("finalizers")?.as_array());
    let bare = |f: &&str| !f.contains('/') && !STANDARD_FINALIZERS.contains(f) && is_label_key(f);
    let bare = finalizers
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .filter(bare);
    bare.map(|f| {
        let how = if f.contains('.') { " including a path (/)" } else { "" };
        format!(
            "metadata.finalizers: {f:?}: prefer a domain-qualified finalizer name{how} to avoid accidental conflicts with other finalizer writers"
        )
    })
    .collect()
}

fn path(field: &str) -> String {
    format!("metadata.{field}")
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

/// A null label is an empty one, and so is an annotation.
pub fn fill_texts(object: &mut Value) {
    let mut fill = |pointer| {
        let all = object.pointer_mut(pointer).and_then(Value::as_object_mut);
        let nulls = all.into_iter().flat_map(|m| m.values_mut());
        nulls.filter(|v| v.is_null()).for_each(|v| *v = "".into());
    };
    fill("/metadata/labels");
    fill("/metadata/annotations");
}

/// Removes what no metadata has, and names it; nulls and empty maps and lists go without a word.
pub fn prune(object: &mut Value) -> Vec<String> {
    fill_texts(object);
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
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|field, _| USERS.contains(&field.as_str()));
    }
    set(object, "name", key.name.as_str().into());
    if registration.namespaced {
        set(object, "namespace", key.namespace.as_str().into());
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

/// What is wrong with what users wrote of the metadata. `old` is what it replaces. Types were checked before.
pub fn check(object: &Value, old: Option<&Value>) -> Vec<Violation> {
    let mut out = vec![];
    let name = text(object, "name");
    if !is_subdomain(name) {
        out.push(violation::invalid("metadata.name", name, SUBDOMAIN));
    }
    if let Some(metadata) = map(object) {
        check_labels(metadata, &mut out);
        check_annotations(metadata, &mut out);
        check_finalizers(metadata, old, &mut out);
        check_owners(metadata, &mut out);
    }
    out
}

fn texts<'a>(
    metadata: &'a Map<String, Value>,
    field: &str,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    let all = metadata.get(field).and_then(Value::as_object);
    let of = |(k, v): (&'a String, &'a Value)| (k.as_str(), v.as_str().unwrap_or_default());
    all.into_iter().flatten().map(of)
}

fn check_labels(metadata: &Map<String, Value>, out: &mut Vec<Violation>) {
    const FIELD: &str = "metadata.labels";
    for (key, value) in texts(metadata, "labels") {
        if !is_label_key(key) {
            out.push(violation::invalid(FIELD, key, QUALIFIED));
        }
        if !is_label_value(value) {
            out.push(violation::invalid(FIELD, value, LABEL_VALUE));
        }
    }
}

fn check_annotations(metadata: &Map<String, Value>, out: &mut Vec<Violation>) {
    const FIELD: &str = "metadata.annotations";
    let mut size = 0;
    for (key, value) in texts(metadata, "annotations") {
        // Keys may be written large.
        if !is_label_key(&key.to_lowercase()) {
            out.push(violation::invalid(FIELD, key, QUALIFIED));
        }
        size += key.len() + value.len();
    }
    if size > MAX_ANNOTATIONS {
        out.push(violation::too_long(FIELD, MAX_ANNOTATIONS));
    }
}

fn check_finalizers(metadata: &Map<String, Value>, old: Option<&Value>, out: &mut Vec<Violation>) {
    const FIELD: &str = "metadata.finalizers";
    let list = |m: &Map<String, Value>| {
        let all = m.get("finalizers").and_then(Value::as_array);
        let all = all.into_iter().flatten().filter_map(Value::as_str);
        all.map(str::to_owned).collect::<Vec<_>>()
    };
    let all = list(metadata);
    for finalizer in all.iter().filter(|f| !is_label_key(f)) {
        out.push(violation::invalid(FIELD, finalizer, QUALIFIED));
    }
    if [ORPHAN, FOREGROUND]
        .iter()
        .all(|f| all.iter().any(|a| a == f))
    {
        let why = format!("finalizer {ORPHAN} and {FOREGROUND} cannot be both set");
        out.push(violation::invalid(FIELD, &all, &why));
    }
    let Some(old) = old.filter(|o| super::storage::is_deleting(o)) else {
        return;
    };
    let before = map(old).map(list).unwrap_or_default();
    let new: Vec<_> = all.iter().filter(|f| !before.contains(f)).collect();
    if !new.is_empty() {
        let why = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers {new:?}"
        );
        out.push(violation::forbidden(FIELD, &why));
    }
}

fn check_owners(metadata: &Map<String, Value>, out: &mut Vec<Violation>) {
    const FIELD: &str = "metadata.ownerReferences";
    let owners = metadata.get("ownerReferences").and_then(Value::as_array);
    let mut controller: Option<String> = None;
    for owner in owners.into_iter().flatten() {
        let of = |field: &str| owner.get(field).and_then(Value::as_str).unwrap_or_default();
        for (field, why) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            if of(field).is_empty() {
                let why = match field {
                    "apiVersion" => why.to_owned(),
                    field => format!("{field} {why}"),
                };
                out.push(violation::invalid(&format!("{FIELD}.{field}"), "", &why));
            }
        }
        if (of("apiVersion"), of("kind")) == ("v1", "Event") {
            let why = "/v1, Kind=Event is disallowed from being an owner";
            out.push(violation::invalid(FIELD, of("name"), why));
        }
        if owner.get("controller") != Some(&Value::Bool(true)) {
            continue;
        }
        let name = format!("{}/{}", of("kind"), of("name"));
        match &controller {
            None => controller = Some(name),
            Some(first) => {
                let why = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"
                );
                out.push(violation::invalid(FIELD, of("name"), &why));
            }
        }
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
            &json!({"metadata": {"name": "A", "labels": {"a b": "x", "c": "-"}, "annotations": {"k k": "1"},
                "finalizers": ["x y"], "ownerReferences": [{"name": "o", "kind": "K", "apiVersion": "v1"}]}}),
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
                "metadata.ownerReferences.uid"
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
