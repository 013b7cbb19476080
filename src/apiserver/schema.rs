//! Structural schemas: what prunes, defaults and checks objects
//! (apiextensions-apiserver/pkg/apiserver/schema, the part that our kinds use).

use super::violation;
use crate::api::validate::{MAX_VIOLATIONS, Violation};
use regex::Regex;
use serde::Deserialize;
use serde_json::{Map, Number, Value};
use std::collections::{BTreeMap, BTreeSet};

/// A schema, compiled once.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Schema {
    #[serde(rename = "type")]
    kind: Option<String>,
    properties: BTreeMap<String, Schema>,
    additional_properties: Option<Additional>,
    items: Option<Box<Schema>>,
    required: Vec<String>,
    default: Option<Value>,
    nullable: bool,
    #[serde(rename = "enum")]
    values: Option<Vec<Value>>,
    minimum: Option<f64>,
    maximum: Option<f64>,
    min_length: Option<u64>,
    max_length: Option<u64>,
    min_items: Option<u64>,
    max_items: Option<u64>,
    pattern: Option<String>,
    #[serde(skip)]
    compiled: Option<Regex>,
    #[serde(rename = "x-kubernetes-preserve-unknown-fields")]
    preserve: bool,
    #[serde(rename = "x-kubernetes-int-or-string")]
    int_or_string: bool,
    #[serde(rename = "x-kubernetes-list-type")]
    list_type: ListType,
    #[serde(rename = "x-kubernetes-list-map-keys")]
    list_map_keys: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Additional {
    Any(bool),
    Of(Box<Schema>),
}

/// What tells a list's items apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ListType {
    /// Their places.
    #[default]
    Atomic,
    /// They themselves.
    Set,
    /// Some of their fields.
    Map,
}

/// A schema that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// Not a schema.
    #[error("not a structural schema")]
    Shape(#[from] serde_json::Error),
    /// A pattern.
    #[error("the pattern is not a regular expression")]
    Pattern(#[from] regex::Error),
}

impl Schema {
    /// Compiles a schema as it is published.
    pub fn compile(published: &Value) -> Result<Self, SchemaError> {
        let mut schema: Schema = serde_json::from_value(published.clone())?;
        schema.patterns()?;
        // These three are the machinery's; the schemas of kinds leave them out.
        for name in ["apiVersion", "kind", "metadata"] {
            let any = Schema {
                preserve: true,
                ..Schema::default()
            };
            schema.properties.insert(name.to_owned(), any);
        }
        Ok(schema)
    }

    fn patterns(&mut self) -> Result<(), SchemaError> {
        self.compiled = self.pattern.as_deref().map(Regex::new).transpose()?;
        for schema in self.properties.values_mut() {
            schema.patterns()?;
        }
        if let Some(items) = &mut self.items {
            items.patterns()?;
        }
        if let Some(Additional::Of(schema)) = &mut self.additional_properties {
            schema.patterns()?;
        }
        Ok(())
    }

    fn of(&self, key: &str) -> Option<&Schema> {
        self.properties
            .get(key)
            .or(match &self.additional_properties {
                Some(Additional::Of(schema)) => Some(schema),
                Some(Additional::Any(_)) | None => None,
            })
    }

    fn keeps_unknown(&self) -> bool {
        self.preserve || matches!(self.additional_properties, Some(Additional::Any(true)))
    }

    /// Removes what the schema does not know, and names it.
    pub fn prune(&self, value: &mut Value) -> Vec<String> {
        let mut unknown = vec![];
        self.prune_at(value, "", &mut unknown);
        unknown
    }

    fn prune_at(&self, value: &mut Value, path: &str, unknown: &mut Vec<String>) {
        match value {
            Value::Object(map) => map.retain(|key, inner| {
                let path = field(path, key);
                match self.of(key) {
                    Some(schema) => schema.prune_at(inner, &path, unknown),
                    None if self.keeps_unknown() => {}
                    None => {
                        unknown.push(path);
                        return false;
                    }
                }
                true
            }),
            Value::Array(all) => {
                if let Some(schema) = &self.items {
                    for (i, inner) in all.iter_mut().enumerate() {
                        schema.prune_at(inner, &format!("{path}[{i}]"), unknown);
                    }
                }
            }
            _ => {}
        }
    }

    /// Fills in defaults; a null where null is not a value counts as absent.
    pub fn fill(&self, value: &mut Value) {
        match value {
            Value::Object(map) => {
                for (key, schema) in &self.properties {
                    if map.get(key).is_some_and(Value::is_null) && !schema.nullable {
                        map.remove(key);
                    }
                    if !map.contains_key(key)
                        && let Some(default) = schema.default.as_ref().filter(|d| !d.is_null())
                    {
                        map.insert(key.clone(), default.clone());
                    }
                }
                for (key, inner) in map {
                    if let Some(schema) = self.of(key) {
                        schema.fill(inner);
                    }
                }
            }
            Value::Array(all) => {
                if let Some(schema) = &self.items {
                    all.iter_mut().for_each(|inner| schema.fill(inner));
                }
            }
            _ => {}
        }
    }

    /// What is wrong with a value.
    pub fn check(&self, value: &Value) -> Vec<Violation> {
        let mut out = vec![];
        self.check_at(value, "", &mut out);
        out.truncate(MAX_VIOLATIONS);
        out
    }

    fn check_at(&self, value: &Value, path: &str, out: &mut Vec<Violation>) {
        if value.is_null() && self.nullable {
            return;
        }
        if !self.is_of_kind(value) {
            let kind = self.kind.as_deref().unwrap_or("integer or string");
            out.push(violation::wrong_type(path, kind_of(value), kind));
        }
        if let Some(values) = &self.values
            && !values.contains(value)
        {
            let all: Vec<_> = values.iter().map(ToString::to_string).collect();
            out.push(violation::not_supported(path, value, &all));
        }
        if !self.is_of_kind(value) {
            return;
        }
        match value {
            Value::Object(map) => self.check_object(map, path, out),
            Value::Array(all) => {
                self.check_size(
                    all.len(),
                    self.min_items,
                    self.max_items,
                    "items",
                    path,
                    out,
                );
                self.check_once(all, path, out);
                if let Some(schema) = &self.items {
                    for (i, inner) in all.iter().enumerate() {
                        schema.check_at(inner, &format!("{path}[{i}]"), out);
                    }
                }
            }
            Value::String(text) => {
                let length = text.chars().count();
                self.check_size(
                    length,
                    self.min_length,
                    self.max_length,
                    "characters",
                    path,
                    out,
                );
                if let Some(pattern) = self.compiled.as_ref().filter(|p| !p.is_match(text)) {
                    out.push(violation::in_words(
                        path,
                        format!("{value} must match {pattern}"),
                    ));
                }
            }
            Value::Number(number) => self.check_range(number, path, out),
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn check_object(&self, map: &Map<String, Value>, path: &str, out: &mut Vec<Violation>) {
        for (key, inner) in map {
            if let Some(schema) = self.of(key) {
                schema.check_at(inner, &field(path, key), out);
            }
        }
        for name in self.required.iter().filter(|name| !map.contains_key(*name)) {
            out.push(violation::required(&field(path, name), ""));
        }
    }

    /// Names each item that is there already (apiextensions-apiserver/pkg/apiserver/schema/listtype).
    fn check_once(&self, all: &[Value], path: &str, out: &mut Vec<Violation>) {
        let key = |item: &Value| match self.list_type {
            ListType::Atomic => None,
            ListType::Set => Some(item.clone()),
            ListType::Map => {
                let of = |k: &String| Some((k.clone(), item.get(k)?.clone()));
                let key: Map<_, _> = self.list_map_keys.iter().filter_map(of).collect();
                (!key.is_empty()).then_some(Value::Object(key))
            }
        };
        let mut seen = BTreeSet::new();
        for (i, item) in all.iter().enumerate() {
            let Some(key) = key(item).map(|k| k.to_string()) else {
                continue;
            };
            if seen.contains(&key) {
                out.push(violation::duplicate(&format!("{path}[{i}]"), &key));
            }
            seen.insert(key);
        }
    }

    fn check_size(
        &self,
        size: usize,
        min: Option<u64>,
        max: Option<u64>,
        of: &str,
        path: &str,
        out: &mut Vec<Violation>,
    ) {
        let size = size as u64;
        if let Some(min) = min.filter(|min| size < *min) {
            out.push(violation::in_words(
                path,
                format!("must have at least {min} {of}"),
            ));
        }
        if let Some(max) = max.filter(|max| size > *max) {
            out.push(violation::in_words(
                path,
                format!("must have at most {max} {of}"),
            ));
        }
    }

    fn check_range(&self, number: &Number, path: &str, out: &mut Vec<Violation>) {
        let n = number.as_f64().unwrap_or(f64::NAN);
        if let Some(min) = self.minimum.filter(|min| n < *min) {
            let message = format!("{number} should be greater than or equal to {min}");
            out.push(violation::in_words(path, message));
        }
        if let Some(max) = self.maximum.filter(|max| n > *max) {
            let message = format!("{number} should be less than or equal to {max}");
            out.push(violation::in_words(path, message));
        }
    }

    fn is_of_kind(&self, value: &Value) -> bool {
        if self.int_or_string {
            return value.is_string() || value.is_i64() || value.is_u64();
        }
        match self.kind.as_deref() {
            None => true,
            Some("object") => value.is_object(),
            Some("array") => value.is_array(),
            Some("string") => value.is_string(),
            Some("boolean") => value.is_boolean(),
            Some("integer") => value.is_i64() || value.is_u64(),
            Some("number") => value.is_number(),
            Some(_) => false,
        }
    }
}

fn field(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// What values are called.
fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::validate::Cause;
    use serde_json::json;

    fn schema() -> Schema {
        Schema::compile(
            &json!({"type": "object", "required": ["spec"], "properties": {"spec": {
            "type": "object", "required": ["replicas"], "properties": {
                "replicas": {"type": "integer", "minimum": 0},
                "class": {"type": "string", "enum": ["a", "b"], "default": "a"},
                "name": {"type": "string", "maxLength": 3, "pattern": "^[a-z]+$"},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "list": {"type": "array", "maxItems": 1, "items": {"type": "object", "properties": {
                    "x": {"type": "integer", "default": 7}}}},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "port": {"x-kubernetes-int-or-string": true},
                "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
                "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a", "b"],
                    "items": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}}},
                "maybe": {"type": "string", "nullable": true},
            }}}}),
        )
        .unwrap()
    }

    #[test]
    fn prunes_and_names_the_unknown() {
        let mut value = json!({"kind": "K", "spec": {"replicas": 1, "oops": 1, "list": [{"y": 1}],
            "free": {"any": {"thing": 1}}, "labels": {"a": "b"}}, "extra": {}});
        let unknown = schema().prune(&mut value);
        assert_eq!(unknown, ["extra", "spec.list[0].y", "spec.oops"]);
        let kept = json!({"kind": "K", "spec": {"replicas": 1, "list": [{}],
            "free": {"any": {"thing": 1}}, "labels": {"a": "b"}}});
        assert_eq!(value, kept);
    }

    #[test]
    fn fills_defaults_where_nothing_is() {
        let mut value =
            json!({"spec": {"replicas": 1, "class": null, "list": [{}, {"x": 1}], "maybe": null}});
        schema().fill(&mut value);
        let filled = json!({"spec": {"replicas": 1, "class": "a", "list": [{"x": 7}, {"x": 1}], "maybe": null}});
        assert_eq!(value, filled);
    }

    #[test]
    fn names_what_is_there_twice() {
        let value = json!({"spec": {"replicas": 1, "set": ["x", "y", "x"], "map": [
            {"a": "1", "b": 1}, {"a": "1", "b": 2}, {"a": "1"}, {"b": 2, "a": "1"}, {"a": "1"}, {}, {}]}});
        let all = schema().check(&value);
        let said: Vec<_> = all.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                r#"spec.map[3]: Duplicate value: {"a":"1","b":2}"#,
                r#"spec.map[4]: Duplicate value: {"a":"1"}"#,
                r#"spec.set[2]: Duplicate value: "x""#,
            ]
        );
        assert!(all.iter().all(|v| v.cause == Cause::Duplicate));
    }

    #[test]
    fn names_each_violation() {
        let of = |value| {
            let all = schema().check(&value);
            all.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            of(json!({"spec": {"replicas": 1, "port": "http", "maybe": null}})),
            [""; 0]
        );
        assert_eq!(of(json!({})), ["spec: Required value"]);
        let bad = json!({"spec": {"replicas": -1, "class": "c", "name": "A1b2", "labels": {"a": 1},
            "list": [{}, {"x": "y"}], "port": true}});
        assert_eq!(
            of(bad),
            [
                "spec.class: Unsupported value: \"c\": supported values: \"a\", \"b\"",
                "spec.labels.a: Invalid value: \"integer\": spec.labels.a in body must be of type string: \"integer\"",
                "spec.list: must have at most 1 items",
                "spec.list[1].x: Invalid value: \"string\": spec.list[1].x in body must be of type integer: \"string\"",
                "spec.name: must have at most 3 characters",
                "spec.name: \"A1b2\" must match ^[a-z]+$",
                "spec.port: Invalid value: \"boolean\": spec.port in body must be of type integer or string: \"boolean\"",
                "spec.replicas: -1 should be greater than or equal to 0",
            ]
        );
    }
}
