//! `meta.k8s.io/v1 Table`: what `kubectl get` prints.

use super::jsonpath::{JsonPath, JsonPathError};
use super::registration::Registration;
use crate::api::time::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceColumnDefinition;
use serde_json::{Value, json};

/// What Kubernetes says of names (apimachinery/pkg/apis/meta/v1/types.go).
const NAME_HELP: &str = "Name must be unique within a namespace. Is required when creating resources, although some resources may allow a client to request the generation of an appropriate name automatically. Name is primarily intended for creation idempotence and configuration definition. Cannot be updated. More info: https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names";

/// How a cell is made.
#[derive(Clone, Debug)]
pub enum Cell {
    /// What a path leads to, as it is.
    Path(JsonPath),
    /// How long ago the time is that a path leads to.
    Age(JsonPath),
    /// Text.
    Text(fn(&Value, Timestamp) -> String),
}

/// A column.
#[derive(Clone, Debug)]
pub struct Column {
    /// Its head.
    pub name: String,
    /// OpenAPI type of its cells.
    pub kind: String,
    /// OpenAPI format of its cells; empty for none.
    pub format: String,
    /// For a person.
    pub description: String,
    /// 0 is always shown, more with `-o wide`.
    pub priority: i32,
    /// How its cells are made.
    pub cell: Cell,
}

impl Column {
    /// A column of a CustomResourceDefinition.
    pub fn of(column: &CustomResourceColumnDefinition) -> Result<Self, JsonPathError> {
        let path: JsonPath = column.json_path.parse()?;
        let is_date = column.type_ == "date";
        Ok(Self {
            name: column.name.clone(),
            kind: column.type_.clone(),
            format: column.format.clone().unwrap_or_default(),
            description: column.description.clone().unwrap_or_default(),
            priority: column.priority.unwrap_or(0),
            cell: if is_date {
                Cell::Age(path)
            } else {
                Cell::Path(path)
            },
        })
    }

    /// A column of text; `wide` hides it from the narrow table.
    pub fn text(
        name: &str,
        description: &str,
        wide: bool,
        cell: fn(&Value, Timestamp) -> String,
    ) -> Self {
        Self {
            name: name.to_owned(),
            kind: "string".to_owned(),
            format: String::new(),
            description: description.to_owned(),
            priority: i32::from(wide),
            cell: Cell::Text(cell),
        }
    }

    fn value(&self, object: &Value, now: Timestamp) -> Value {
        match &self.cell {
            Cell::Path(path) => path.find(object).cloned().unwrap_or(Value::Null),
            Cell::Age(path) => path
                .find(object)
                .and_then(Value::as_str)
                .map_or_else(|| "<unknown>".into(), |text| age(text, now).into()),
            Cell::Text(cell) => cell(object, now).into(),
        }
    }
}

/// What rows carry beside their cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// The object's metadata.
    Metadata,
    /// The object.
    Object,
}

/// A table of objects. `metadata` is the list's; `head` leaves the columns' definitions out when false.
pub fn table<'a>(
    registration: &Registration,
    objects: impl IntoIterator<Item = &'a Value>,
    metadata: Value,
    include: Include,
    head: bool,
) -> Value {
    let now = Timestamp::now();
    let rows: Vec<_> = objects
        .into_iter()
        .map(|object| row(registration, object, include, now))
        .collect();
    let columns = head.then(|| columns(registration));
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": columns, "rows": rows,
    })
}

fn columns(registration: &Registration) -> Vec<Value> {
    let name = json!({
        "name": "Name", "type": "string", "format": "name", "priority": 0,
        "description": NAME_HELP,
    });
    let others = registration.columns.iter().map(|c| {
        // Ages are rendered here, so they are text to the client.
        let kind = if matches!(c.cell, Cell::Age(_)) { "string" } else { &c.kind };
        json!({"name": c.name, "type": kind, "format": c.format, "description": c.description, "priority": c.priority})
    });
    std::iter::once(name).chain(others).collect()
}

/// A row of a table.
pub fn row(registration: &Registration, object: &Value, include: Include, now: Timestamp) -> Value {
    let name = object
        .pointer("/metadata/name")
        .cloned()
        .unwrap_or_default();
    let cells: Vec<_> = std::iter::once(name)
        .chain(registration.columns.iter().map(|c| c.value(object, now)))
        .collect();
    let mut row = json!({"cells": cells});
    match include {
        Include::None => row["object"] = Value::Null,
        Include::Metadata => row["object"] = partial(object),
        Include::Object => row["object"] = object.clone(),
    }
    row
}

/// `PartialObjectMetadata` of an object.
pub fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

/// How long ago an RFC 3339 time is.
pub fn age(text: &str, now: Timestamp) -> String {
    let Ok(then) = text.parse::<jiff::Timestamp>() else {
        return "<unknown>".into();
    };
    let now = i64::try_from(now.0 / 1000).unwrap_or(i64::MAX);
    human(now.saturating_sub(then.as_second()))
}

/// A duration as kubectl shortens it (apimachinery/pkg/util/duration).
fn human(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let two = |big: i64, unit: char, small: i64, small_unit: char| match small {
        0 => format!("{big}{unit}"),
        _ => format!("{big}{unit}{small}{small_unit}"),
    };
    match () {
        () if seconds < -1 => "<invalid>".into(),
        () if seconds < 0 => "0s".into(),
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, 'm', seconds % 60, 's'),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, 'h', minutes % 60, 'm'),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 192 => two(hours / 24, 'd', hours % 24, 'h'),
        () if hours < 24 * 365 * 2 => format!("{}d", hours / 24),
        () if hours < 24 * 365 * 8 => two(hours / 24 / 365, 'y', hours / 24 % 365, 'd'),
        () => format!("{}y", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_kubectl_prints_them() {
        for (seconds, text) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (119, "119s"),
            (120, "2m"),
            (599, "9m59s"),
            (600, "10m"),
            (3 * 3600 - 1, "179m"),
            (3 * 3600, "3h"),
            (5 * 3600 + 120, "5h2m"),
            (8 * 3600, "8h"),
            (48 * 3600, "2d"),
            (50 * 3600, "2d2h"),
            (9 * 86400, "9d"),
            (3 * 365 * 86400, "3y"),
            (9 * 365 * 86400, "9y"),
        ] {
            assert_eq!(human(seconds), text);
        }
        assert_eq!(age("1970-01-01T00:00:00Z", Timestamp(65_000)), "65s");
        assert_eq!(age("never", Timestamp(0)), "<unknown>");
    }
}
