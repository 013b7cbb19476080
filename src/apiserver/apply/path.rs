//! Paths to fields, and how they are written: `.spec.list[name="a"]` for people, `f:spec` and `k:{"name":"a"}` in
//! `fieldsV1` (structured-merge-diff/fieldpath/element.go, serialize-pe.go).

use super::value::compare;
use serde_json::{Map, Value};
use std::cmp::Ordering;
use std::fmt;

/// One step of a path.
#[derive(Clone, Debug)]
pub enum Element {
    /// A field of a map, by name.
    Field(String),
    /// An item of a list of maps, by the fields that make its key, in the order of their names.
    Key(Vec<(String, Value)>),
    /// An item of a set.
    Value(Value),
    /// An item of any other list.
    Index(i64),
}

impl Element {
    /// A field.
    pub fn field(name: impl Into<String>) -> Self {
        Self::Field(name.into())
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Field(_) => 0,
            Self::Key(_) => 1,
            Self::Value(_) => 2,
            Self::Index(_) => 3,
        }
    }

    /// As `fieldsV1` writes it.
    pub fn encode(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Key(fields) => {
                let map: Map<_, _> = fields.iter().cloned().collect();
                format!("k:{}", Value::Object(map))
            }
            Self::Value(value) => format!("v:{value}"),
            Self::Index(index) => format!("i:{index}"),
        }
    }

    /// Reads what `fieldsV1` says. `Ok(None)`: a kind of step that a later version may know.
    pub fn decode(text: &str) -> Result<Option<Self>, String> {
        let bad = |why: &dyn fmt::Display| format!("{text:?} is not a path element: {why}");
        let Some((kind, rest)) = text.split_once(':') else {
            return Err(bad(&"it has no colon"));
        };
        Ok(Some(match kind {
            "f" => Self::field(rest),
            "v" => Self::Value(serde_json::from_str(rest).map_err(|e| bad(&e))?),
            "k" => {
                let map: Map<String, Value> = serde_json::from_str(rest).map_err(|e| bad(&e))?;
                let mut fields: Vec<_> = map.into_iter().collect();
                fields.sort_by(|a, b| a.0.cmp(&b.0));
                Self::Key(fields)
            }
            "i" => Self::Index(rest.parse().map_err(|e| bad(&e))?),
            _ => return Ok(None),
        }))
    }
}

impl Ord for Element {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Field(a), Self::Field(b)) => a.cmp(b),
            (Self::Key(a), Self::Key(b)) => {
                let mut pairs = a.iter().zip(b);
                let first = pairs.find_map(|(a, b)| {
                    let order = a.0.cmp(&b.0).then_with(|| compare(&a.1, &b.1));
                    Some(order).filter(|o| o.is_ne())
                });
                first.unwrap_or_else(|| a.len().cmp(&b.len()))
            }
            (Self::Value(a), Self::Value(b)) => compare(a, b),
            (Self::Index(a), Self::Index(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Element {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Element {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Element {}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(fields) => {
                let all: Vec<_> = fields.iter().map(|(k, v)| format!("{k}={v}")).collect();
                write!(f, "[{}]", all.join(","))
            }
            Self::Value(value) => write!(f, "[={value}]"),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// A path from an object's root.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(pub Vec<Element>);

impl Path {
    /// Of names of fields.
    pub fn of(names: &[&str]) -> Self {
        Self(names.iter().map(|n| Element::field(*n)).collect())
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|e| e.fmt(f))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn written_for_machines_and_people() {
        let key = Element::Key(vec![
            ("a".into(), json!("x")),
            ("b".into(), json!(1)),
            ("c".into(), json!(true)),
        ]);
        for (element, machine, person) in [
            (Element::field("spec"), "f:spec", ".spec"),
            (Element::field("a:b/c"), "f:a:b/c", ".a:b/c"),
            (
                key,
                r#"k:{"a":"x","b":1,"c":true}"#,
                r#"[a="x",b=1,c=true]"#,
            ),
            (Element::Value(json!("v")), r#"v:"v""#, r#"[="v"]"#),
            (Element::Value(json!(1.5)), "v:1.5", "[=1.5]"),
            (Element::Index(3), "i:3", "[3]"),
        ] {
            assert_eq!(element.encode(), machine);
            assert_eq!(element.to_string(), person);
            assert_eq!(Element::decode(machine), Ok(Some(element)));
        }
        assert_eq!(Element::decode("z:later"), Ok(None));
        for bad in ["", "f", "i:x", "v:", "k:[]"] {
            assert!(Element::decode(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn fields_before_keys_before_values() {
        let sorted = [
            Element::field("a"),
            Element::field("b"),
            Element::Key(vec![("n".into(), json!(9))]),
            Element::Key(vec![("n".into(), json!(80))]),
            Element::Value(json!(1)),
            Element::Value(json!("a")),
            Element::Index(0),
        ];
        assert!(sorted.is_sorted());
    }
}
