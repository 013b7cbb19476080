//! The few JSONPaths that printer columns and scale paths use: `.a.b`, `['a']`, `[0]`, `[?(@.a=="x")]`
//! (apiextensions: relative to the object, first match).

use serde_json::Value;

/// A parsed path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Field(String),
    Index(usize),
    /// The first element whose field equals the text.
    Find(String, String),
}

/// A path that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a path that is supported")]
pub struct JsonPathError(pub String);

impl std::str::FromStr for JsonPath {
    type Err = JsonPathError;

    fn from_str(text: &str) -> Result<Self, JsonPathError> {
        parse(text).ok_or_else(|| JsonPathError(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<JsonPath> {
    let (mut steps, mut rest) = (vec![], text);
    while !rest.is_empty() {
        if let Some(tail) = rest.strip_prefix('.') {
            let end = tail.find(['.', '[']).unwrap_or(tail.len());
            let (name, tail) = tail.split_at(end);
            if name.is_empty() {
                return None;
            }
            steps.push(Step::Field(name.to_owned()));
            rest = tail;
        } else {
            let (inner, tail) = rest.strip_prefix('[')?.split_once(']')?;
            steps.push(bracket(inner)?);
            rest = tail;
        }
    }
    Some(JsonPath(steps))
}

fn bracket(inner: &str) -> Option<Step> {
    if let Ok(index) = inner.parse() {
        return Some(Step::Index(index));
    }
    if let Some(name) = quoted(inner) {
        return Some(Step::Field(name));
    }
    let filter = inner.strip_prefix("?(@.")?.strip_suffix(')')?;
    let (field, value) = filter.split_once("==")?;
    Some(Step::Find(field.trim().to_owned(), quoted(value.trim())?))
}

fn quoted(text: &str) -> Option<String> {
    let quote = text.chars().next().filter(|c| ['"', '\''].contains(c))?;
    let inner = text.strip_prefix(quote)?.strip_suffix(quote)?;
    Some(inner.to_owned())
}

impl JsonPath {
    /// What the path leads to.
    pub fn find<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(value, |at, step| match step {
            Step::Field(name) => at.get(name),
            Step::Index(index) => at.get(index),
            Step::Find(field, text) => at
                .as_array()?
                .iter()
                .find(|e| e.get(field).and_then(Value::as_str) == Some(text)),
        })
    }

    /// The names on the way, where there is nothing else on it.
    pub fn fields(&self) -> Option<Vec<&str>> {
        self.0
            .iter()
            .map(|s| match s {
                Step::Field(name) => Some(name.as_str()),
                Step::Index(_) | Step::Find(..) => None,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn finds() {
        let value = json!({"a": {"b": 1, "c.d": 2}, "l": [{"type": "Ready", "status": "True"}]});
        for (path, found) in [
            (".a.b", Some(json!(1))),
            (".a['c.d']", Some(json!(2))),
            (".l[0].type", Some(json!("Ready"))),
            (r#".l[?(@.type=="Ready")].status"#, Some(json!("True"))),
            (r#".l[?(@.type=='Other')].status"#, None),
            (".x", None),
        ] {
            let path: JsonPath = path.parse().unwrap();
            assert_eq!(path.find(&value), found.as_ref(), "{path:?}");
        }
        for bad in ["a", ".", ".a[", ".a[?(@.b>1)]", ".a[*]"] {
            assert!(bad.parse::<JsonPath>().is_err(), "{bad}");
        }
    }
}
