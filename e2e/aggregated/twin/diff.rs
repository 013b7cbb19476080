//! Where two answers differ.
//!
//! A path is written `body.items[0].metadata.name`; in a pattern `*` stands for any part of it.

use serde_json::{Map, Value};

/// A difference.
#[derive(Debug, PartialEq)]
pub struct Difference {
    pub path: String,
    /// Ours; `None` where it has nothing there.
    pub ours: Option<Value>,
    /// The custom resource's.
    pub twin: Option<Value>,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = |side: &Option<Value>| {
            side.as_ref()
                .map_or_else(|| "nothing".to_owned(), ToString::to_string)
        };
        let (ours, twin) = (text(&self.ours), text(&self.twin));
        write!(f, "{}\n      ours {ours}\n      twin {twin}", self.path)
    }
}

/// All differences, as deep as they can be told.
pub fn diff(ours: &Value, twin: &Value) -> Vec<Difference> {
    let mut out = vec![];
    compare("", Some(ours), Some(twin), &mut out);
    out
}

/// Objects of two kinds differ as a whole.
fn same_kind(a: &Map<String, Value>, b: &Map<String, Value>) -> bool {
    match (a.get("apiVersion"), b.get("apiVersion")) {
        (Some(_), Some(_)) => a.get("kind") == b.get("kind"),
        _ => true,
    }
}

fn compare(path: &str, ours: Option<&Value>, twin: Option<&Value>, out: &mut Vec<Difference>) {
    match (ours, twin) {
        (Some(Value::Object(a)), Some(Value::Object(b))) if same_kind(a, b) => {
            let more = b.keys().filter(|key| !a.contains_key(*key));
            for key in a.keys().chain(more) {
                let dot = if path.is_empty() { "" } else { "." };
                compare(&format!("{path}{dot}{key}"), a.get(key), b.get(key), out);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            for i in 0..a.len().max(b.len()) {
                compare(&format!("{path}[{i}]"), a.get(i), b.get(i), out);
            }
        }
        (a, b) if a == b => {}
        (a, b) => out.push(Difference {
            path: path.to_owned(),
            ours: a.cloned(),
            twin: b.cloned(),
        }),
    }
}

/// Whether a path is one that a pattern means.
pub fn matches(pattern: &str, path: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == path,
        Some((head, rest)) => path.strip_prefix(head).is_some_and(|tail| {
            let starts = tail.char_indices().map(|(i, _)| i).chain([tail.len()]);
            starts.into_iter().any(|i| matches(rest, &tail[i..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn twin_every_difference_has_its_path() {
        let ours = json!({"code": 200, "body": {"a": [1, {"b": 2}], "c": null}});
        let twin = json!({"code": 201, "body": {"a": [1, {"b": 3}, 4], "d": {}}});
        let paths: Vec<_> = diff(&ours, &twin).into_iter().map(|d| d.path).collect();
        assert_eq!(
            paths,
            ["body.a[1].b", "body.a[2]", "body.c", "body.d", "code"]
        );
        assert!(diff(&ours, &ours).is_empty());
    }

    #[test]
    fn twin_patterns_mean_whole_paths() {
        for (pattern, path, means) in [
            ("body.a", "body.a", true),
            ("body.a", "body.a.b", false),
            ("body*", "body.a.b", true),
            ("*.status", "body.items[3].status", true),
            ("*.status", "body.status.x", false),
            ("body.*[*].x", "body.items[3].x", true),
        ] {
            assert_eq!(matches(pattern, path), means, "{pattern} {path}");
        }
    }
}
