//! An actor's bytes, big-endian:
//!
//! | bytes | field |
//! |---|---|
//! | 1 | version |
//! | 1, 1 | phase, desired |
//! | 1 | flags: 1 flat id, 2 leased, 4 boots, 8 yields |
//! | 5 | epoch |
//! | 3 | epoch less operation: takeovers of the current transition |
//! | 7 | stamp of the last write |
//! | 5 | writes |
//! | 6 | last activity, ms |
//! | 16 | uid |
//! | 8, 6 | lease owner, deadline in ms; only when leased |
//! | 2 + n | spec, postcard |
//! | rest | status, postcard, without what stands above |

use super::{Reader, corrupt, exactly, push};
use crate::api::names::{ActorKey, Build, Epoch, ResourceVersion};
use crate::api::record::{
    ActorRecord, Assignment, Desired, Failure, Header, Lease, LocalSnapshotRecord, MetaRecord,
    Phase, RolledBack, SnapshotRecord, SpecRecord, StatusRecord, StepRecord,
};
use crate::api::time::Timestamp;
use crate::store::StoreError;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

const FLAT: u8 = 1;
const LEASED: u8 = 2;
const BOOTS: u8 = 4;
const YIELDS: u8 = 8;

/// The version byte of actors. 1 kept among the status what the third flag says; in 2 snapshots had no runtime, in 3 transitions no steps, in 4 who was rolled back
/// no message.
const VERSION: u8 = 5;

/// Stands for the actor's own namespace.
const SAME: &str = "=";

/// The part of the status that postcard keeps. Times are kept relative to one another: an actor that sleeps is what
/// there is most of, and every byte of it counts.
#[derive(Serialize, Deserialize)]
struct Body {
    created: u64,
    assignment: Option<Assignment>,
    durable: Option<Snapshot>,
    local: Option<(Snapshot, String)>,
    last_transition: i64,
    last_duration_micros: u64,
    last_steps: Vec<StepRecord>,
    failure: Option<Failure>,
    rolled_back: Option<RolledBack>,
}

/// A snapshot with its time relative to the actor's last transition, in milliseconds.
#[derive(Serialize, Deserialize)]
struct Snapshot {
    epoch: u64,
    bytes: u64,
    time: i64,
    runtime: Option<Build>,
}

fn after(time: Timestamp, origin: Timestamp) -> i64 {
    time.0.wrapping_sub(origin.0).cast_signed()
}

fn absolute(after: i64, origin: Timestamp) -> Timestamp {
    Timestamp(origin.0.wrapping_add(after.cast_unsigned()))
}

impl Snapshot {
    fn of(s: &SnapshotRecord, transition: Timestamp) -> Self {
        Snapshot {
            epoch: s.epoch.0,
            bytes: s.bytes,
            time: after(s.time, transition),
            runtime: s.runtime,
        }
    }

    fn into_record(self, transition: Timestamp) -> SnapshotRecord {
        SnapshotRecord {
            epoch: Epoch(self.epoch),
            bytes: self.bytes,
            time: absolute(self.time, transition),
            runtime: self.runtime,
        }
    }
}

/// The spec part.
pub fn encode_spec(key: &ActorKey, spec: &SpecRecord) -> Result<Vec<u8>, StoreError> {
    let mut spec = spec.clone();
    if spec.template.namespace == key.namespace {
        spec.template.namespace = SAME.to_owned();
    }
    let bytes = postcard::to_allocvec(&spec).map_err(|e| corrupt(key, e))?;
    if u16::try_from(bytes.len()).is_err() {
        return Err(corrupt(key, "its spec is larger than 64 KiB"));
    }
    Ok(bytes)
}

/// The status part.
pub fn encode_status(key: &ActorKey, status: &StatusRecord) -> Result<Vec<u8>, StoreError> {
    let StatusRecord {
        uid: _,
        created,
        flat: _,
        assignment,
        durable,
        local,
        last_activity: _,
        last_transition,
        last_duration_micros,
        last_steps,
        failure,
        rolled_back,
    } = status;
    let body = Body {
        created: created.0,
        assignment: assignment.clone(),
        durable: durable.as_ref().map(|s| Snapshot::of(s, *last_transition)),
        local: local
            .as_ref()
            .map(|l| (Snapshot::of(&l.snapshot, *last_transition), l.node.clone())),
        last_transition: after(*last_transition, *created),
        last_duration_micros: *last_duration_micros,
        last_steps: last_steps.clone(),
        failure: failure.clone(),
        rolled_back: rolled_back.clone(),
    };
    postcard::to_allocvec(&body).map_err(|e| corrupt(key, e))
}

/// All but key and meta.
pub fn encode_actor(record: &ActorRecord) -> Result<Vec<u8>, StoreError> {
    let spec = encode_spec(&record.key, &record.spec)?;
    let status = encode_status(&record.key, &record.status)?;
    let mut out = Vec::with_capacity(64 + spec.len() + status.len());
    header(&mut out, record).map_err(|why| corrupt(&record.key, why))?;
    push(&mut out, spec.len() as u64, 2).map_err(|why| corrupt(&record.key, why))?;
    out.extend_from_slice(&spec);
    out.extend_from_slice(&status);
    Ok(out)
}

fn header(out: &mut Vec<u8>, record: &ActorRecord) -> Result<(), &'static str> {
    let Header {
        phase,
        desired,
        epoch,
        operation,
        boot,
        yields,
        lease,
        resource_version,
        writes,
    } = &record.header;
    let flat = if record.status.flat { FLAT } else { 0 };
    let leased = if lease.is_some() { LEASED } else { 0 };
    let boots = if *boot { BOOTS } else { 0 };
    let yields = if *yields { YIELDS } else { 0 };
    let flags = flat | leased | boots | yields;
    out.extend_from_slice(&[VERSION, *phase as u8, *desired as u8, flags]);
    push(out, epoch.0, 5)?;
    let takeovers = epoch.0.checked_sub(operation.0);
    push(
        out,
        takeovers.ok_or("its operation is newer than its epoch")?,
        3,
    )?;
    push(out, resource_version.tick(), 7)?;
    push(out, *writes, 5)?;
    push(out, record.status.last_activity.0, 6)?;
    out.extend_from_slice(record.status.uid.as_bytes());
    if let Some(lease) = lease {
        push(out, lease.owner, 8)?;
        push(out, lease.deadline.0, 6)?;
    }
    Ok(())
}

/// Reads what `encode_actor` or a script wrote.
pub fn decode_actor(
    key: ActorKey,
    bytes: &[u8],
    meta: MetaRecord,
    shard: u16,
) -> Result<ActorRecord, StoreError> {
    match decode(&key, bytes, shard) {
        Ok((header, spec, status)) => Ok(ActorRecord {
            key,
            header,
            spec,
            status,
            meta,
        }),
        Err(why) => Err(corrupt(&key, why)),
    }
}

fn decode(
    key: &ActorKey,
    bytes: &[u8],
    shard: u16,
) -> Result<(Header, SpecRecord, StatusRecord), String> {
    let mut r = Reader(bytes);
    let version = r.byte()?;
    if version != VERSION {
        return Err(format!(
            "it has format {version}, and this program reads format {VERSION} only"
        ));
    }
    let phase = Phase::from_number(r.byte()?).ok_or("its phase is unknown")?;
    let desired = Desired::from_number(r.byte()?).ok_or("its desired state is unknown")?;
    let flags = r.byte()?;
    let epoch = Epoch(r.number(5)?);
    let takeovers = r.number(3)?;
    let operation = epoch.0.checked_sub(takeovers).map(Epoch);
    let operation = operation.ok_or("its operation is out of range")?;
    let tick = r.number(7)?;
    let writes = r.number(5)?;
    let last_activity = Timestamp(r.number(6)?);
    let uid = r.uid()?;
    let lease = if flags & LEASED == 0 {
        None
    } else {
        Some(Lease {
            owner: r.number(8)?,
            deadline: Timestamp(r.number(6)?),
        })
    };
    let mut spec: SpecRecord = exactly(r.counted()?)?;
    if spec.template.namespace == SAME {
        spec.template.namespace.clone_from(&key.namespace);
    }
    let body: Body = exactly(r.0)?;
    let header = Header {
        phase,
        desired,
        epoch,
        operation,
        boot: flags & BOOTS != 0,
        yields: flags & YIELDS != 0,
        lease,
        resource_version: ResourceVersion::from_tick(tick, shard),
        writes,
    };
    let flat = flags & FLAT != 0;
    Ok((header, spec, status(body, uid, flat, last_activity)))
}

fn status(body: Body, uid: Uuid, flat: bool, last_activity: Timestamp) -> StatusRecord {
    let created = Timestamp(body.created);
    let last_transition = absolute(body.last_transition, created);
    StatusRecord {
        uid,
        created,
        flat,
        assignment: body.assignment,
        durable: body.durable.map(|s| s.into_record(last_transition)),
        local: body.local.map(|(s, node)| LocalSnapshotRecord {
            snapshot: s.into_record(last_transition),
            node,
        }),
        last_activity,
        last_transition,
        last_duration_micros: body.last_duration_micros,
        last_steps: body.last_steps,
        failure: body.failure,
        rolled_back: body.rolled_back,
    }
}

#[cfg(test)]
mod tests;
