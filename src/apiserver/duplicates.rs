//! Objects whose text says a field twice: the last one counts, and it is told.

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// Duplicates that are told of one text.
const MAX_TOLD: usize = 50;

/// A field that is said twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Twice {
    /// Where it is, as `a.b[0]`; empty at the top.
    parent: String,
    key: String,
}

impl Twice {
    /// As whoever reads YAML calls it.
    pub fn in_yaml(&self) -> String {
        format!("key {:?} already set in map", self.key)
    }

    /// As whoever reads JSON calls it.
    pub fn in_json(&self) -> String {
        format!("duplicate field \"{}\"", below(&self.parent, &self.key))
    }
}

fn below(parent: &str, key: &str) -> String {
    match parent {
        "" => key.to_owned(),
        parent => format!("{parent}.{key}"),
    }
}

/// Reads a value; returns what it says twice, too.
pub fn read<'de, D: Deserializer<'de>>(text: D) -> Result<(Value, Vec<Twice>), D::Error> {
    let mut twice = vec![];
    let seed = Seed {
        at: String::new(),
        twice: &mut twice,
    };
    let value = seed.deserialize(text)?;
    Ok((value, twice))
}

/// Reads JSON; returns what it says twice, too.
pub fn json(bytes: &[u8]) -> Result<(Value, Vec<Twice>), serde_json::Error> {
    let mut text = serde_json::Deserializer::from_slice(bytes);
    let read = read(&mut text)?;
    text.end()?;
    Ok(read)
}

struct Seed<'a> {
    at: String,
    twice: &'a mut Vec<Twice>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value that JSON can say")
    }

    fn visit_bool<E: Error>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_i64<E: Error>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E: Error>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E: Error>(self, v: f64) -> Result<Value, E> {
        Ok(Number::from_f64(v).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: Error>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        self.deserialize(d)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Value, A::Error> {
        let mut out = vec![];
        loop {
            let seed = Seed {
                at: format!("{}[{}]", self.at, out.len()),
                twice: self.twice,
            };
            match all.next_element_seed(seed)? {
                Some(item) => out.push(item),
                None => break,
            }
        }
        Ok(Value::Array(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut all: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = all.next_key::<String>()? {
            let seed = Seed {
                at: below(&self.at, &key),
                twice: self.twice,
            };
            let value = all.next_value_seed(seed)?;
            if out.contains_key(&key) && self.twice.len() < MAX_TOLD {
                self.twice.push(Twice {
                    parent: self.at.clone(),
                    key: key.clone(),
                });
            }
            out.insert(key, value);
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_last_one_counts_and_is_told() {
        let text = r#"{"a": 1, "b": [{"c": null, "c": 1.5}], "a": true}"#;
        let read_twice = [
            read(&mut serde_json::Deserializer::from_str(text)).unwrap(),
            read(serde_yaml_ng::Deserializer::from_str(text)).unwrap(),
        ];
        for (value, twice) in read_twice {
            assert_eq!(value, json!({"a": true, "b": [{"c": 1.5}]}));
            let said: Vec<_> = twice.iter().map(Twice::in_json).collect();
            assert_eq!(
                said,
                ["duplicate field \"b[0].c\"", "duplicate field \"a\""]
            );
            assert_eq!(twice[0].in_yaml(), "key \"c\" already set in map");
        }
    }
}
