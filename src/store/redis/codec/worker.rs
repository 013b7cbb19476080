//! A worker's bytes, big-endian:
//!
//! | bytes | field |
//! |---|---|
//! | 1, 1 | version, phase |
//! | 7, 5 | stamp of the last write, writes |
//! | 6 | created, ms |
//! | 6, 6 | epoch and deadline (ms) of the claim |
//! | 16 | uid of the claim's actor |
//! | 2 + n | actor of the claim, `namespace/name`; empty: unclaimed |
//! | 2 + n | node |
//! | rest | what the node reports, postcard |

use super::{Reader, corrupt, exactly};
use crate::api::names::{Epoch, PoolKey, ResourceVersion, WorkerKey};
use crate::api::record::{Claim, WorkerPhase, WorkerRecord};
use crate::api::time::Timestamp;
use crate::store::StoreError;
use serde::{Deserialize, Serialize};

/// The version byte of workers.
const VERSION: u8 = 2;

#[derive(Serialize, Deserialize)]
struct Rest {
    uid: String,
    ip: String,
    sandbox_class: String,
}

const PHASES: [WorkerPhase; 5] = [
    WorkerPhase::Free,
    WorkerPhase::Claimed,
    WorkerPhase::Draining,
    WorkerPhase::Dirty,
    WorkerPhase::Lost,
];

/// The stored number of a phase.
pub fn phase_number(phase: WorkerPhase) -> u8 {
    match phase {
        WorkerPhase::Free => 0,
        WorkerPhase::Claimed => 1,
        WorkerPhase::Draining => 2,
        WorkerPhase::Dirty => 3,
        WorkerPhase::Lost => 4,
    }
}

/// The last part: what a report may change beside phase and node.
pub fn encode_rest(worker: &WorkerRecord) -> Result<Vec<u8>, StoreError> {
    postcard::to_allocvec(&Rest {
        uid: worker.uid.clone(),
        ip: worker.ip.clone(),
        sandbox_class: worker.sandbox_class.clone(),
    })
    .map_err(|e| corrupt(&worker.key, e))
}

/// Reads what a script wrote.
pub fn decode_worker(
    pool: PoolKey,
    key: WorkerKey,
    bytes: &[u8],
    shard: u16,
) -> Result<WorkerRecord, StoreError> {
    let what = format!("worker {key}");
    decode(pool, key, bytes, shard).map_err(|why| corrupt(&what, why))
}

fn decode(pool: PoolKey, key: WorkerKey, bytes: &[u8], shard: u16) -> Result<WorkerRecord, String> {
    let mut r = Reader(bytes);
    let version = r.byte()?;
    if version != VERSION {
        return Err(format!(
            "it has format {version}, and this program reads format {VERSION} only"
        ));
    }
    let phase = *PHASES
        .get(usize::from(r.byte()?))
        .ok_or("its phase is unknown")?;
    let tick = r.number(7)?;
    let writes = r.number(5)?;
    let created = Timestamp(r.number(6)?);
    let epoch = Epoch(r.number(6)?);
    let deadline = Timestamp(r.number(6)?);
    let uid = r.uid()?;
    let actor = std::str::from_utf8(r.counted()?).map_err(|e| e.to_string())?;
    let node = std::str::from_utf8(r.counted()?).map_err(|e| e.to_string())?;
    let rest: Rest = exactly(r.0)?;
    let claim = if actor.is_empty() {
        None
    } else {
        Some(Claim {
            actor: actor.parse().map_err(|e| format!("{e}"))?,
            uid,
            epoch,
            deadline,
        })
    };
    Ok(WorkerRecord {
        key,
        pool,
        uid: rest.uid,
        node: node.to_owned(),
        ip: rest.ip,
        sandbox_class: rest.sandbox_class,
        phase,
        claim,
        created,
        resource_version: ResourceVersion::from_tick(tick, shard),
        writes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn phases_keep_their_numbers() {
        for (i, phase) in PHASES.into_iter().enumerate() {
            assert_eq!(usize::from(phase_number(phase)), i);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_error_at_worst(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), known in any::<bool>()) {
            if known && bytes.len() > 1 {
                bytes[0] = VERSION;
                bytes[1] %= 5;
            }
            let _ = decode_worker(PoolKey::new("a", "p"), WorkerKey::new("a", "w"), &bytes, 3);
        }
    }
}
