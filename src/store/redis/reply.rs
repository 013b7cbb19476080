//! What a script answered.

use crate::api::names::{Incarnation, ResourceVersion};
use crate::api::time::Timestamp;
use crate::store::{Gone, StoreError};
use ::redis::Value;

/// The start of a shard's server, in stamps; 0 while it was never started again.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// The newest that it had of the shard.
    pub kept: u64,
    /// The newest that it had of any.
    reached: u64,
    /// Below this it gave none since.
    resumed: u64,
}

impl Start {
    /// Whether it may have given a stamp of the shard before, and does not have it.
    pub fn doubts(self, stamp: u64) -> bool {
        stamp > self.kept && stamp < self.resumed
    }

    /// The same of a version, whatever shard's it is.
    pub fn doubts_version(self, stamp: u64) -> bool {
        stamp > self.reached && stamp < self.resumed
    }
}

/// A reply: `{code, now, last, incarnation, kept, reached, resumed, ...}`.
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
    start: Start,
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

/// The same, or an empty string where there is none.
pub fn number_if_any(value: Value) -> Result<Option<u64>, StoreError> {
    match value {
        Value::BulkString(bytes) if bytes.is_empty() => Ok(None),
        value => number(value).map(Some),
    }
}

/// Items of a value.
pub fn array(value: Value) -> Result<Vec<Value>, StoreError> {
    match value {
        Value::Array(items) => Ok(items),
        _ => Err(strange("an array")),
    }
}

/// How far a log is gone, as `gone` in `lua/prelude.lua` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    /// Up to this stamp.
    pub upto: u64,
    /// Why.
    pub why: Gone,
}

impl Past {
    /// Of a log that has everything.
    pub const NONE: Self = Self {
        upto: 0,
        why: Gone::Trimmed,
    };

    /// Reads it.
    pub fn of(value: Value) -> Result<Self, StoreError> {
        let [upto, why] = <[Value; 2]>::try_from(array(value)?)
            .map_err(|_| strange("how far the log is gone"))?;
        let why = match text(why)?.as_str() {
            "trimmed" => Gone::Trimmed,
            "lost" => Gone::Lost,
            "forgotten" => Gone::Forgotten,
            _ => return Err(strange("why the log is gone")),
        };
        let upto = number(upto)?;
        Ok(Self { upto, why })
    }

    /// An error for a reader at `version` who wants stamps from `first` on, where they are not there any more.
    pub fn reaches(self, first: u64, version: ResourceVersion) -> Result<(), StoreError> {
        match first > self.upto {
            true => Ok(()),
            false => Err(self.why.at(version)),
        }
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
            start: Start {
                kept: number(next("the stamp before the start")?)?,
                reached: number(next("any shard's before the start")?)?,
                resumed: number(next("the stamp after the start")?)?,
            },
            values,
        })
    }

    /// When the server was started.
    pub fn start(&self) -> Start {
        self.start
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
