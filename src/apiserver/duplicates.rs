//! Objects whose text says a field twice: the last one counts, and it is told.

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// Duplicates that are told of one text.
const MAX_TOLD: usize = 50;

/// Reads a value; returns what it says twice, too.
pub fn read<'de, D: Deserializer<'de>>(text: D) -> Result<(Value, Vec<String>), D::Error> {
    let mut twice = vec![];
    let value = Seed(&mut twice).deserialize(text)?;
    Ok((value, twice))
}

struct Seed<'a>(&'a mut Vec<String>);

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
        while let Some(item) = all.next_element_seed(Seed(self.0))? {
            out.push(item);
        }
        Ok(Value::Array(out))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut all: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = all.next_key::<String>()? {
            let value = all.next_value_seed(Seed(self.0))?;
            if out.contains_key(&key) && self.0.len() < MAX_TOLD {
                self.0.push(format!("key {key:?} already set in map"));
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
            assert_eq!(
                twice,
                [
                    "key \"c\" already set in map",
                    "key \"a\" already set in map"
                ]
            );
        }
    }
}
