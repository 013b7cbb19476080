//! Names and numbers that must not be mixed up. Parsed at the edge, trusted inside.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// The longest DNS label (RFC 1123).
pub const MAX_LABEL: usize = 63;

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a DNS label.
    #[error(
        "{field} {value:?} is not a DNS label: use at most 63 lower-case letters, digits and '-', starting and ending with a letter or digit"
    )]
    NotALabel {
        /// What the text was to be.
        field: &'static str,
        /// The text, cut to a printable length.
        value: String,
    },
    /// Not `namespace/name`.
    #[error("{0:?} is not of the form namespace/name")]
    NotAKey(String),
    /// Not a snapshot id.
    #[error("{0:?} is not a snapshot id")]
    NotASnapshotId(String),
    /// Not a build of a runtime.
    #[error("{0:?} is not a build: give at least 12 hexadecimal digits of its SHA-256")]
    NotABuild(String),
}

/// Whether `text` is a DNS label (RFC 1123): what every part of an actor's host name must be.
pub fn is_dns_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=MAX_LABEL).contains(&bytes.len())
        && bytes.iter().all(|b| alnum(b) || *b == b'-')
        && bytes.first().is_some_and(alnum)
        && bytes.last().is_some_and(alnum)
}

/// `text` when it is a DNS label, else an error that names `field`.
pub fn dns_label(field: &'static str, text: &str) -> Result<String, NameError> {
    if is_dns_label(text) {
        return Ok(text.to_owned());
    }
    Err(NameError::NotALabel {
        field,
        value: text.chars().take(MAX_LABEL + 1).collect(),
    })
}

macro_rules! key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name {
            /// DNS label.
            pub namespace: String,
            /// DNS label.
            pub name: String,
        }

        impl $name {
            /// A key of two parts that are known to be valid.
            pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
                Self { namespace: namespace.into(), name: name.into() }
            }

            /// A key of two parts that came from outside.
            pub fn parse(namespace: &str, name: &str) -> Result<Self, NameError> {
                Ok(Self { namespace: dns_label("namespace", namespace)?, name: dns_label("name", name)? })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}/{}", self.namespace, self.name)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                let (namespace, name) = text.split_once('/').ok_or_else(|| NameError::NotAKey(text.into()))?;
                Self::parse(namespace, name)
            }
        }
    };
}

key!(
    /// An actor: `namespace/name`.
    ActorKey
);
key!(
    /// A worker: the namespace and name of its pod.
    WorkerKey
);
key!(
    /// A worker pool.
    PoolKey
);
key!(
    /// An actor template.
    TemplateKey
);

/// Counts the operations begun on an actor. An order with an older epoch than one already seen is refused.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch of the next operation.
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Counts the times the store lost writes. Orders of another incarnation are refused.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Incarnation(pub u64);

/// Position of a write: 41 bits of milliseconds since 2026-01-01, 12 bits of counter, 10 bits of shard.
/// Positive, comparable across shards, never rewinds.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct ResourceVersion(pub u64);

impl ResourceVersion {
    /// Bits of the shard number.
    pub const SHARD_BITS: u32 = 10;
    /// Bits of the counter within a millisecond.
    pub const COUNTER_BITS: u32 = 12;
    /// 2026-01-01T00:00:00Z in milliseconds since the Unix epoch.
    pub const ORIGIN_MS: u64 = 1_767_225_600_000;

    /// A version from a shard's tick (milliseconds since the origin and counter, 53 bits) and its number.
    pub fn from_tick(tick: u64, shard: u16) -> Self {
        Self(tick << Self::SHARD_BITS | u64::from(shard))
    }

    /// Milliseconds since the origin and counter, 53 bits: what a shard counts.
    pub fn tick(self) -> u64 {
        self.0 >> Self::SHARD_BITS
    }
}

impl fmt::Display for ResourceVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A snapshot: the actor that was saved and the epoch of the operation that saved it. Text form `UUID-EPOCH`
/// with the UUID's 32 hex digits and the epoch's 16: fixed length, so that no id is a prefix of another.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct SnapshotId {
    /// Uid of the actor.
    pub actor: Uuid,
    /// Epoch of the operation.
    pub epoch: Epoch,
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.actor.simple(), self.epoch.0)
    }
}

impl FromStr for SnapshotId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let parse = || {
            let (actor, epoch) = text.split_once('-')?;
            if actor.len() != 32
                || epoch.len() != 16
                || text.bytes().any(|b| b.is_ascii_uppercase() || b == b'+')
            {
                return None;
            }
            let epoch = u64::from_str_radix(epoch, 16).ok()?;
            Some(SnapshotId {
                actor: Uuid::try_parse(actor).ok()?,
                epoch: Epoch(epoch),
            })
        };
        parse().ok_or_else(|| NameError::NotASnapshotId(text.chars().take(80).collect()))
    }
}

/// A build of a runtime: how the SHA-256 of its executable begins, which tells the builds of an installation apart and costs
/// an actor's record little. Text form: 12 hex digits. Nodes hold what they restore against the whole sum.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Build([u8; Build::BYTES]);

impl Build {
    const BYTES: usize = 6;
}

impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Build {
    type Err = NameError;

    /// The text form, or a whole sum.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let parse = || {
            let mut bytes = [0; Build::BYTES];
            hex::decode_to_slice(text.get(..2 * Build::BYTES)?, &mut bytes).ok()?;
            let hex = text.bytes().all(|b| b.is_ascii_hexdigit());
            hex.then_some(Build(bytes))
        };
        parse().ok_or_else(|| NameError::NotABuild(text.chars().take(80).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn labels() {
        for good in ["a", "a-b", "0", &"a".repeat(63)] {
            assert!(is_dns_label(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "ä", &"a".repeat(64)] {
            assert!(!is_dns_label(bad), "{bad}");
        }
    }

    #[test]
    fn a_bad_name_says_which_field() {
        let e = ActorKey::parse("team", "Bad_").unwrap_err().to_string();
        assert!(e.starts_with("name \"Bad_\" is not a DNS label"), "{e}");
    }

    #[test]
    fn a_build_is_how_its_sum_begins() {
        let sum = "0123456789abcdef".repeat(4);
        let build: Build = sum.parse().unwrap();
        assert_eq!(build.to_string(), "0123456789ab");
        assert_eq!("0123456789ab".parse(), Ok(build));
        for bad in ["", "0123456789a", "0123456789ax", &format!("{sum}-"), "ä"] {
            assert!(bad.parse::<Build>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn snapshot_ids_round_trip(hi in any::<u128>(), epoch in any::<u64>()) {
            let id = SnapshotId { actor: Uuid::from_u128(hi), epoch: Epoch(epoch) };
            prop_assert_eq!(id.to_string().parse::<SnapshotId>().unwrap(), id);
            prop_assert_eq!(id.to_string().len(), 49);
        }

        #[test]
        fn what_parses_prints_the_same(text in "[0-9a-fA-F+-]{49}") {
            if let Ok(id) = text.parse::<SnapshotId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }

        #[test]
        fn versions_compare_by_tick_first(a in 0u64..1 << 53, b in 0u64..1 << 53, s in 0u16..1024, t in 0u16..1024) {
            let (x, y) = (ResourceVersion::from_tick(a, s), ResourceVersion::from_tick(b, t));
            prop_assert_eq!(a < b, x < y && a != b);
            prop_assert_eq!(x.tick(), a);
            prop_assert!(x.0 < 1 << 63);
        }
    }
}
