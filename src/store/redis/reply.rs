//! What a script answered.

use crate::api::names::Incarnation;
use crate::api::time::Timestamp;
use crate::store::StoreError;
use ::redis::Value;

/// A reply: `{code, now, last, incarnation, ...}`.
#[derive(Debug)]
pub struct Reply {
    /// What happened, in one word.
    pub code: String,
    /// The server's clock.
    pub now: Timestamp,
    /// The shard's newest stamp.
    pub last: u64,
    /// The store's incarnation as the shard knows it.
    pub incarnation: Incarnation,
    values: std::vec::IntoIter<Value>,
}

fn strange(what: &str) -> StoreError {
    StoreError::Corrupt {
        what: "the store's reply".to_owned(),
        why: format!("{what} is missing or of another type"),
    }
}

/// Bytes of a value.
pub fn bytes(value: Value) -> Result<Vec<u8>, StoreError> {
    match value {
        Value::BulkString(b) => Ok(b),
        Value::SimpleString(s) => Ok(s.into_bytes()),
        Value::Okay => Ok(b"OK".to_vec()),
        _ => Err(strange("a string")),
    }
}

/// Text of a value.
pub fn text(value: Value) -> Result<String, StoreError> {
    String::from_utf8(bytes(value)?).map_err(|_| strange("a text"))
}

/// Number of a value.
pub fn number(value: Value) -> Result<u64, StoreError> {
    match value {
        Value::Int(n) => u64::try_from(n).map_err(|_| strange("a number")),
        _ => Err(strange("a number")),
    }
}

/// Items of a value.
pub fn array(value: Value) -> Result<Vec<Value>, StoreError> {
    match value {
        Value::Array(items) => Ok(items),
        _ => Err(strange("an array")),
    }
}

/// A field of a hash and its value.
type Pair = (Vec<u8>, Vec<u8>);

/// Fields and values of a hash.
pub fn pairs(value: Value) -> Result<Vec<Pair>, StoreError> {
    let mut items = array(value)?.into_iter();
    let mut out = Vec::with_capacity(items.len() / 2);
    while let (Some(key), Some(value)) = (items.next(), items.next()) {
        out.push((bytes(key)?, bytes(value)?));
    }
    Ok(out)
}

impl Reply {
    /// Reads the common part.
    pub fn read(value: Value) -> Result<Self, StoreError> {
        let mut values = array(value)?.into_iter();
        let mut next = |what| values.next().ok_or_else(|| strange(what));
        Ok(Self {
            code: text(next("the code")?)?,
            now: Timestamp(number(next("the time")?)?),
            last: number(next("the stamp")?)?,
            incarnation: Incarnation(number(next("the incarnation")?)?),
            values,
        })
    }

    /// The next value of the script's own.
    pub fn next(&mut self) -> Result<Value, StoreError> {
        self.values.next().ok_or_else(|| strange("a value"))
    }

    /// The error of a code that is none of the caller's own; `what` is what was asked for.
    pub fn fail(&self, what: &impl std::fmt::Display) -> StoreError {
        let what = what.to_string();
        match self.code.as_str() {
            "NOTFOUND" => StoreError::NotFound(what),
            "EXISTS" => StoreError::Exists(what),
            "CONFLICT" => StoreError::Conflict(what),
            "FENCED" => StoreError::Fenced(what),
            "VERSION" => StoreError::Corrupt {
                what,
                why: "its format is unknown to this program".to_owned(),
            },
            code => StoreError::Corrupt {
                what,
                why: format!("the store answered {code:?}"),
            },
        }
    }

    /// `self` when the code is `OK`, else the error.
    pub fn ok(self, what: &impl std::fmt::Display) -> Result<Self, StoreError> {
        if self.code == "OK" {
            Ok(self)
        } else {
            Err(self.fail(what))
        }
    }
}
