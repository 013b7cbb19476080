//! Label and field selectors as queries write them (apimachinery/pkg/labels/selector.go, pkg/fields/selector.go).

use super::registration::Selectable;
use super::status::ApiError;
use crate::api::selector::{Operator, Requirement, Selector};
use serde_json::Value;
use std::collections::BTreeMap;

/// Requirements that a query may have.
const MAX_REQUIREMENTS: usize = 64;

/// What a list or watch is about.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Only of this namespace.
    pub namespace: Option<String>,
    /// By labels.
    pub labels: Selector,
    /// By fields.
    pub fields: Vec<FieldRequirement>,
}

/// One of a field selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRequirement {
    /// JSON pointer of the field.
    pub pointer: &'static str,
    /// What with.
    pub value: String,
    /// `=` or `!=`.
    pub equal: bool,
}

impl Filter {
    /// Whether everything of the namespace is selected.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// The name, when only one object can match.
    pub fn name(&self) -> Option<&str> {
        let name = |f: &&FieldRequirement| f.pointer == "/metadata/name" && f.equal;
        self.fields.iter().find(name).map(|f| f.value.as_str())
    }

    /// Whether an object is selected.
    pub fn matches(&self, object: &Value) -> bool {
        let text = |pointer: &str| {
            object
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or("")
        };
        self.namespace
            .as_deref()
            .is_none_or(|n| text("/metadata/namespace") == n)
            && self
                .fields
                .iter()
                .all(|f| (text(f.pointer) == f.value) == f.equal)
            && (self.labels.is_empty() || self.labels.matches(&labels_of(object)))
    }
}

fn labels_of(object: &Value) -> BTreeMap<String, String> {
    let labels = object
        .pointer("/metadata/labels")
        .and_then(Value::as_object);
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    labels
        .iter()
        .flat_map(|m| m.iter())
        .map(|(k, v)| (k.clone(), text(v)))
        .collect()
}

/// Parses a `fieldSelector`; a field that the kind does not offer is refused.
pub fn fields(text: &str, offered: &[Selectable]) -> Result<Vec<FieldRequirement>, ApiError> {
    let terms = split(text, false);
    if terms.len() > MAX_REQUIREMENTS {
        return Err(too_many());
    }
    terms
        .iter()
        .filter(|t| !t.is_empty())
        .map(|term| {
            let parts = term
                .split_once("!=")
                .map(|(k, v)| (k, v, false))
                .or_else(|| term.split_once("==").map(|(k, v)| (k, v, true)))
                .or_else(|| term.split_once('=').map(|(k, v)| (k, v, true)));
            let (field, value, equal) = parts.ok_or_else(|| {
                ApiError::BadRequest(format!(
                    "invalid field selector {term:?}: write it as field=value"
                ))
            })?;
            let field = field.trim();
            let found = offered.iter().find(|s| s.label == field).ok_or_else(|| {
                let all: Vec<_> = offered.iter().map(|s| s.label).collect();
                ApiError::BadRequest(format!(
                    "field label not supported: {field} (supported: {})",
                    all.join(", ")
                ))
            })?;
            Ok(FieldRequirement {
                pointer: found.pointer,
                value: unescape(value),
                equal,
            })
        })
        .collect()
}

fn too_many() -> ApiError {
    ApiError::BadRequest(format!(
        "a selector may have at most {MAX_REQUIREMENTS} requirements"
    ))
}

fn unescape(value: &str) -> String {
    let (mut out, mut chars) = (String::new(), value.chars());
    while let Some(c) = chars.next() {
        out.push(if c == '\\' {
            chars.next().unwrap_or(c)
        } else {
            c
        });
    }
    out
}

/// Splits at commas outside parentheses; a backslash keeps the next character.
fn split(text: &str, parentheses: bool) -> Vec<&str> {
    let (mut parts, mut start, mut depth, mut escaped) = (vec![], 0, 0u32, false);
    for (i, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '(' if parentheses => depth += 1,
            ')' if parentheses => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// Parses a `labelSelector`.
pub fn labels(text: &str) -> Result<Selector, ApiError> {
    let mut selector = Selector::default();
    if text.trim().is_empty() {
        return Ok(selector);
    }
    let terms = split(text, true);
    if terms.len() > MAX_REQUIREMENTS {
        return Err(too_many());
    }
    for term in terms {
        selector.expressions.push(label_requirement(term.trim())?);
    }
    Ok(selector)
}

fn label_requirement(term: &str) -> Result<Requirement, ApiError> {
    let of = |key: &str, operator, values| {
        let key = key.trim();
        if !is_label_key(key) {
            return Err(bad_label(term));
        }
        Ok(Requirement {
            key: key.to_owned(),
            operator,
            values,
        })
    };
    if let Some(key) = term.strip_prefix('!') {
        return of(key, Operator::DoesNotExist, vec![]);
    }
    if let Some((key, value)) = term.split_once("!=") {
        return of(key, Operator::NotIn, vec![label_value(term, value)?]);
    }
    if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return of(key, Operator::In, vec![label_value(term, value)?]);
    }
    let Some((head, tail)) = term.split_once('(') else {
        return of(term, Operator::Exists, vec![]);
    };
    let inner = tail
        .trim_end()
        .strip_suffix(')')
        .ok_or_else(|| bad_label(term))?;
    let values = inner
        .split(',')
        .map(|v| label_value(term, v))
        .collect::<Result<Vec<_>, _>>()?;
    let mut words = head.split_whitespace();
    match (words.next(), words.next(), words.next()) {
        (Some(key), Some("in"), None) => of(key, Operator::In, values),
        (Some(key), Some("notin"), None) => of(key, Operator::NotIn, values),
        _ => Err(bad_label(term)),
    }
}

fn bad_label(term: &str) -> ApiError {
    let term: String = term.chars().take(80).collect();
    ApiError::BadRequest(format!(
        "unable to parse requirement {term:?}: write key=value, key!=value, key in (a,b), key notin (a,b), key or !key"
    ))
}

fn label_value(term: &str, value: &str) -> Result<String, ApiError> {
    let value = value.trim();
    if is_label_value(value) {
        Ok(value.to_owned())
    } else {
        Err(bad_label(term))
    }
}

/// Whether a text can be a label's value: at most 63 letters, digits, `-`, `_`, `.`, beginning and ending with a letter or
/// digit; or empty.
pub fn is_label_value(value: &str) -> bool {
    value.is_empty() || is_name(value)
}

fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
}

/// Whether a text can be a label's or annotation's key: `[DNS subdomain/]name`.
pub fn is_label_key(key: &str) -> bool {
    match key.split_once('/') {
        None => is_name(key),
        Some((prefix, name)) => is_subdomain(prefix) && is_name(name),
    }
}

/// Whether a text is a DNS subdomain (RFC 1123).
pub fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(crate::api::names::is_dns_label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn object(labels: Value) -> Value {
        json!({"metadata": {"name": "a", "namespace": "ns", "labels": labels}, "status": {"phase": "Running"}})
    }

    #[test]
    fn label_selectors() {
        let gold = object(json!({"tier": "gold", "x/y": "1"}));
        let none = object(json!({}));
        for (text, with, without) in [
            ("", true, true),
            ("tier=gold", true, false),
            ("tier==gold,x/y=1", true, false),
            ("tier!=gold", false, true),
            ("tier in (iron, gold)", true, false),
            ("tier notin (iron),tier", true, false),
            ("!tier", false, true),
            ("tier=", false, false),
        ] {
            let filter = Filter {
                labels: labels(text).unwrap(),
                ..Filter::default()
            };
            assert_eq!(
                (filter.matches(&gold), filter.matches(&none)),
                (with, without),
                "{text}"
            );
        }
        for bad in [
            "=x",
            "a b",
            "a in (x",
            "a in x",
            "a like (x)",
            "a=b=c",
            "a,,b",
            "a>1",
        ] {
            assert!(matches!(labels(bad), Err(ApiError::BadRequest(_))), "{bad}");
        }
    }

    #[test]
    fn field_selectors() {
        let offered = [
            Selectable {
                label: "metadata.name",
                pointer: "/metadata/name",
            },
            Selectable {
                label: "status.phase",
                pointer: "/status/phase",
            },
        ];
        for (text, expected) in [
            ("metadata.name=a", true),
            ("metadata.name==a,status.phase!=Paused", true),
            ("metadata.name!=a", false),
            (r"metadata.name=a\,b", false),
            ("", true),
        ] {
            let filter = Filter {
                fields: fields(text, &offered).unwrap(),
                ..Filter::default()
            };
            assert_eq!(filter.matches(&object(json!({}))), expected, "{text}");
        }
        assert_eq!(
            fields(r"metadata.name=a\,b", &offered).unwrap()[0].value,
            "a,b"
        );
        for bad in ["spec.x=1", "metadata.name"] {
            assert!(
                matches!(fields(bad, &offered), Err(ApiError::BadRequest(_))),
                "{bad}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[a-z=!(), \\\\äé./-]{0,40}") {
            let _ = labels(&text);
            let _ = fields(&text, &[]);
        }
    }
}
