//! How the items of lists are told apart, and that they can be (structured-merge-diff/typed/helpers.go, validate.go).

use super::path::Element;
use super::types::{ListType, MapType, Scalar, Shape, Type};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// What names an item of a list that is merged item by item.
pub fn element(list: &ListType, item: &Value) -> Result<Element, String> {
    if list.keys.is_empty() {
        return match item {
            Value::Object(_) => {
                Err("associative list without keys has an element that's a map type".into())
            }
            Value::Array(_) => Err("not supported: associative list with lists as elements".into()),
            Value::Null => {
                Err("associative list without keys has an element that's an explicit null".into())
            }
            scalar => Ok(Element::Value(scalar.clone())),
        };
    }
    let Value::Object(map) = item else {
        return Err(match item {
            Value::Null => "associative list with keys may not have a null element".into(),
            _ => "associative list with keys may not have non-map elements".into(),
        });
    };
    let declared = list.element.atom().map.as_ref();
    let mut fields = vec![];
    for name in &list.keys {
        let default = || declared.and_then(|m| m.fields.get(name)?.default.as_ref());
        let Some(value) = map.get(name).or_else(default) else {
            return Err(format!(
                "associative list with keys has an element that omits key field {name:?} (and doesn't have default value)"
            ));
        };
        fields.push((name.clone(), value.clone()));
    }
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(Element::Key(fields))
}

/// Names of the items; what cannot be named, in an object that was stored before, goes by its place.
pub fn elements(list: &ListType, items: &[Value]) -> Vec<Element> {
    let name = |(i, item)| {
        element(list, item).unwrap_or_else(|_| Element::Index(i64::try_from(i).unwrap_or(i64::MAX)))
    };
    items.iter().enumerate().map(name).collect()
}

/// What is wrong with an object that is applied: fields that the schema does not know, values of other types, items
/// that cannot be told apart.
pub fn check(of: &Type, value: &Value) -> Vec<String> {
    let mut out = vec![];
    check_at(of, value, "", &mut out);
    out
}

fn check_at(of: &Type, value: &Value, path: &str, out: &mut Vec<String>) {
    let mut wrong = |message: String| {
        out.push(if path.is_empty() {
            message
        } else {
            format!("{path}: {message}")
        });
    };
    match (of.atom().shape(Some(value)), value) {
        (_, Value::Null) => {}
        (Shape::Map(map), Value::Object(fields)) => check_map(map, fields, path, out),
        (Shape::Map(_), other) => wrong(format!("expected map, got {other}")),
        (Shape::List(list), Value::Array(items)) => check_list(list, items, path, out),
        (Shape::List(_), other) => wrong(format!("expected list, got {other}")),
        (Shape::Scalar(scalar), value) => {
            let (fits, what) = match scalar {
                Scalar::Number => (value.is_number(), "numeric (int or float)"),
                Scalar::Text => (value.is_string(), "string"),
                Scalar::Boolean => (value.is_boolean(), "boolean"),
                Scalar::Any => (!value.is_object() && !value.is_array(), "any scalar"),
            };
            if !fits {
                wrong(format!("expected {what}, got {value}"));
            }
        }
        (Shape::Nothing, _) => wrong("schema error: invalid atom".into()),
    }
}

fn check_map(map: &MapType, fields: &Map<String, Value>, path: &str, out: &mut Vec<String>) {
    for (name, value) in fields {
        let path = format!("{path}.{name}");
        match map.of(name) {
            Some(of) => check_at(of, value, &path, out),
            None => out.push(format!("{path}: field not declared in schema")),
        }
    }
}

fn check_list(list: &ListType, items: &[Value], path: &str, out: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (i, item) in items.iter().enumerate() {
        let name = if list.atomic {
            Element::Index(i64::try_from(i).unwrap_or(i64::MAX))
        } else {
            match element(list, item) {
                Ok(name) => name,
                Err(why) => return out.push(format!("{path}: element {i}: {why}")),
            }
        };
        if !seen.insert(name.clone()) {
            out.push(format!("{path}: duplicate entries for key {name}"));
        }
        check_at(&list.element, item, &format!("{path}{name}"), out);
    }
}
