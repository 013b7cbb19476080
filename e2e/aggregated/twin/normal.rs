//! An answer without what may differ: uids, versions, times, names of the kind, tokens.

use super::side::Side;
use k8s_openapi::ByteString;
use regex::{Captures, Regex};
use serde_json::{Value, json};
use std::sync::LazyLock;

/// Headers that are compared.
const HEADERS: [&str; 8] = [
    "allow",
    "cache-control",
    "content-type",
    "etag",
    "location",
    "retry-after",
    "vary",
    "warning",
];

static TIME: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$").unwrap());
static AGE: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\d+s$").unwrap());
static NUMBER: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\b\d{3,}\b").unwrap());
static CURRENT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"current: \d+$").unwrap());

/// An answer as it came.
pub struct Raw {
    pub code: u16,
    pub headers: http::HeaderMap,
    pub body: Vec<u8>,
}

/// What is compared of it: `code`, `header`, `body`.
pub fn normal(side: &mut Side, raw: &Raw, is_watch: bool) -> Value {
    let body = match parse(&raw.headers, &raw.body, is_watch) {
        Body::Json(value) => {
            side.learn(&value);
            let text = side.anonymous(&value.to_string());
            let mut value = serde_json::from_str(&text).unwrap();
            walk(side, &mut value);
            value
        }
        Body::Text(text) => side.anonymous(&text).into(),
    };
    let mut header = json!({});
    for name in HEADERS {
        let values = raw.headers.get_all(name).iter();
        let mut values: Vec<_> = values
            .map(|v| side.anonymous(&String::from_utf8_lossy(v.as_bytes())))
            .collect();
        values.sort();
        if !values.is_empty() {
            header[name] = values.into();
        }
    }
    json!({"code": raw.code, "header": header, "body": body})
}

enum Body {
    Json(Value),
    Text(String),
}

fn parse(headers: &http::HeaderMap, body: &[u8], is_watch: bool) -> Body {
    let Ok(text) = std::str::from_utf8(body) else {
        return Body::Text("BINARY".to_owned());
    };
    if is_watch {
        let events = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        // What is cut off at the end of a watch is no event.
        let events: Vec<_> = events.map_while(Result::ok).filter(tells).collect();
        return Body::Json(events.into());
    }
    let kind = headers
        .get("content-type")
        .map(|v| v.to_str().unwrap_or(""));
    let value = match kind {
        Some("application/yaml") => serde_yaml_ng::from_str(text).ok(),
        _ => serde_json::from_str(text).ok(),
    };
    value.map_or_else(|| Body::Text(text.to_owned()), Body::Json)
}

/// Bookmarks come when they like, but for the one that ends the state.
fn tells(event: &Value) -> bool {
    event["type"] != "BOOKMARK"
        || event
            .pointer("/object/metadata/annotations")
            .is_some_and(|a| a.get("k8s.io/initial-events-end").is_some())
}

fn walk(side: &Side, value: &mut Value) {
    match value {
        Value::Object(map) => {
            // A list's version is a moment, not an object's.
            if !map.contains_key("uid")
                && let Some(Value::String(version)) = map.get_mut("resourceVersion")
                && is_positive(version)
            {
                "VERSION".clone_into(version);
            }
            // Apart from the `status` of a Status.
            if map.get("kind").is_some_and(|k| k == "KIND")
                && let Some(status) = map.remove("status")
            {
                map.insert("objectStatus".to_owned(), status);
            }
            // Sorted by time, which has whole seconds: who writes in one second is a matter of luck.
            if let Some(Value::Array(managers)) = map.get_mut("managedFields") {
                managers.sort_by_cached_key(ToString::to_string);
            }
            for (key, value) in map.iter_mut() {
                leaf(side, key, value);
                walk(side, value);
            }
        }
        Value::Array(all) => {
            for value in all {
                leaf(side, "", value);
                walk(side, value);
            }
        }
        _ => {}
    }
}

fn is_positive(version: &str) -> bool {
    version.parse::<u64>().is_ok_and(|v| v > 0)
}

fn leaf(side: &Side, key: &str, value: &mut Value) {
    let Value::String(text) = value else { return };
    if let Some(found) = TIME.captures(text) {
        let fraction = if found.get(1).is_some() {
            ".FRACTION"
        } else {
            ""
        };
        *text = format!("TIME{fraction}");
    } else if AGE.is_match(text) {
        *text = "AGE".to_owned();
    }
    match key {
        "resourceVersion" => {
            if let Some(ordinal) = side.ordinal(text) {
                *text = ordinal;
            }
        }
        "kubernetes.io/initial-events-list-blueprint" => {
            let bytes: ByteString = serde_json::from_value(text.as_str().into()).unwrap();
            let list: Value = serde_json::from_slice(&bytes.0).unwrap_or_default();
            *text = side.anonymous(&list.to_string());
        }
        "continue" if !text.is_empty() => *text = "TOKEN".to_owned(),
        "message" => {
            let one = |n: &Captures<'_>| side.ordinal(&n[0]).unwrap_or_else(|| n[0].to_owned());
            *text = NUMBER.replace_all(text, one).into_owned();
            *text = CURRENT.replace_all(text, "current: VERSION").into_owned();
        }
        _ => {}
    }
}
