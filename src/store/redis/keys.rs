//! Where things lie: the shard of a name and the names of keys.
//!
//! All keys of shard `S` carry the hash tag `{prefix:S}`, so that a script never leaves one slot of a cluster:
//!
//! | key | type | holds |
//! |---|---|---|
//! | `{ate}:meta` | hash | format, number of shards, incarnation |
//! | `{ate:S}:clock` | hash | `last` stamp, `incarnation`, `trimmed` and `lost` marks of the log |
//! | `{ate:S}:log` | stream | changes of actors and workers |
//! | `{ate:S}:actors` | sorted set | score 0, `namespace \0 name \0 record`: the record and the ordered index in one |
//! | `{ate:S}:actormeta` | hash | `namespace \0 name` -> JSON, only where there is any |
//! | `{ate:S}:leases` | sorted set | deadline in ms -> `namespace \0 name`, only transitional actors |
//! | `{ate:S}:deletions` | sorted set | when it was marked, in ms -> `namespace \0 name`, only actors marked deleted that no finalizer holds |
//! | `{ate:S}:count` | hash | namespace -> number of actors in this shard |
//! | `{ate:S}:flat:B` | hash | flat id -> namespace, spread so that each stays in the compact encoding |
//! | `{ate:S}:pools` | set | `namespace/name` of pools with workers |
//! | `{ate:S}:workers:POOL` | hash | `namespace/name` -> record |
//! | `{ate:S}:free:POOL` | sorted set | score 0, `node \0 namespace/name` |
//! | `{ate:S}:holders:POOL` | hash | uid of an actor -> worker |
//! | `{ate:0}:nodes` | hash | node -> lease in ms, address and runtime |
//! | `{ate:0}:documents:KIND`, `{ate:0}:doclog:KIND` | hash, stream | documents and their changes |

use crate::api::names::{ActorKey, PoolKey};

/// Shards of an installation unless it says otherwise.
pub const DEFAULT_SHARDS: u16 = 16;
/// Buckets of the flat ids per shard. With 16 shards each stays within the 512 entries of a hash's compact encoding
/// up to 2 million ids; beyond, an id takes more memory and nothing else changes.
const FLAT_BUCKETS: u64 = 256;
/// Hash slots of a cluster.
const SLOTS: u16 = 16_384;
/// The shard of nodes and documents.
pub const HOME: u16 = 0;

/// FNV-1a, 64 bits (Fowler, Noll, Vo), folded to 32 bits so that its low bits depend on all of the text. Part of
/// the stored format: it must never change.
pub fn hash(text: &str) -> u64 {
    let h = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    });
    h ^ (h >> 32)
}

/// CRC-16/XMODEM: what a cluster's slots are made of (Redis cluster specification, appendix A).
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, b| {
        (0..8).fold(crc ^ u16::from(*b) << 8, |crc: u16, _| {
            let carry = if crc & 0x8000 == 0 { 0 } else { 0x1021 };
            crc << 1 ^ carry
        })
    })
}

/// Names of keys.
#[derive(Clone, Debug)]
pub struct Keys {
    prefix: String,
    shards: u16,
}

impl Keys {
    /// Keys under a prefix.
    pub fn new(prefix: &str, shards: u16) -> Self {
        Self {
            prefix: prefix.to_owned(),
            shards,
        }
    }

    /// How many shards there are.
    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// The shard of an actor: by its name alone, so that its flat id lies beside it.
    pub fn actor_shard(&self, name: &str) -> u16 {
        shard_of(hash(name), self.shards)
    }

    /// The shard of a pool's workers.
    pub fn pool_shard(&self, pool: &PoolKey) -> u16 {
        shard_of(hash(&pool.to_string()), self.shards)
    }

    /// What belongs to the installation.
    pub fn meta(&self) -> String {
        format!("{{{}}}:meta", self.prefix)
    }

    /// Something of a shard.
    pub fn of(&self, shard: u16, what: &str) -> String {
        format!("{{{}:{shard}}}:{what}", self.prefix)
    }

    /// The slot of a shard's keys in a cluster.
    pub fn slot(&self, shard: u16) -> u16 {
        crc16(format!("{}:{shard}", self.prefix).as_bytes()) % SLOTS
    }

    /// Something of a pool.
    pub fn of_pool(&self, pool: &PoolKey, what: &str) -> String {
        self.of(self.pool_shard(pool), &format!("{what}:{pool}"))
    }

    /// The bucket of a flat id.
    pub fn flat(&self, name: &str) -> String {
        let bucket = (hash(name) >> 16) % FLAT_BUCKETS;
        self.of(self.actor_shard(name), &format!("flat:{bucket:x}"))
    }
}

fn shard_of(hash: u64, shards: u16) -> u16 {
    u16::try_from(hash % u64::from(shards.max(1))).unwrap_or(0)
}

/// `namespace \0 name`: sorts as the pair does.
pub fn actor_key(key: &ActorKey) -> Vec<u8> {
    format!("{}\0{}", key.namespace, key.name).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_part_of_the_format() {
        assert_eq!(hash(""), 0xcbf2_9ce4_8422_2325 ^ 0xcbf2_9ce4);
        let plain = 0xaf63_dc4c_8601_ec8c_u64;
        assert_eq!(hash("a"), plain ^ (plain >> 32));
    }

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
    }

    #[test]
    fn shards_and_buckets_are_even() {
        let keys = Keys::new("ate", DEFAULT_SHARDS);
        let mut shards = [0u32; 16];
        let mut buckets = std::collections::HashMap::<String, u32>::new();
        for i in 0..64_000 {
            let name = format!("agent-{i:08}");
            shards[usize::from(keys.actor_shard(&name))] += 1;
            *buckets.entry(keys.flat(&name)).or_default() += 1;
        }
        assert!(
            shards.iter().all(|n| (3_600..4_400).contains(n)),
            "{shards:?}"
        );
        assert_eq!(buckets.len(), 4096);
        assert!(buckets.values().all(|n| *n < 64));
    }

    #[test]
    fn a_shard_is_one_slot() {
        let keys = Keys::new("ate", DEFAULT_SHARDS);
        let shard = keys.actor_shard("a");
        for key in [keys.of(shard, "clock"), keys.flat("a")] {
            assert!(key.starts_with(&format!("{{ate:{shard}}}:")), "{key}");
        }
    }
}
