//! Actors: create, fence, commit, remove.

use super::caps::Caps;
use super::client::{Call, Client};
use super::codec::{LATEST, decode_actor, encode_actor, encode_spec, encode_status};
use super::keys::actor_key;
use super::reply::{self, Reply};
use super::scripts::{self, Lua};
use crate::api::names::{ActorKey, Epoch, ResourceVersion};
use crate::api::record::{ActorRecord, MetaRecord, Phase, SpecRecord};
use crate::api::time::Timestamp;
use crate::store::{Begin, Begun, Durability, Edge, Expiry, StoreError};
use std::time::Duration;

/// A longer lease is cut: deadlines have six bytes.
const LONGEST_LEASE: Duration = Duration::from_secs(100 * 365 * 86_400);

/// A call about one actor: its shard, the keys that every such script has, and its key as first argument.
fn call(client: &Client, script: &'static Lua, key: &ActorKey) -> Call {
    let shard = client.keys.actor_shard(&key.name);
    Call::new(client, script, shard)
        .key(client.keys.of(shard, "actors"))
        .key(client.keys.of(shard, "actormeta"))
        .arg(actor_key(key))
}

fn leases(client: &Client, key: &ActorKey) -> String {
    let shard = client.keys.actor_shard(&key.name);
    client.keys.of(shard, "leases")
}

fn deletions(client: &Client, key: &ActorKey) -> String {
    let shard = client.keys.actor_shard(&key.name);
    client.keys.of(shard, "deletions")
}

fn count(client: &Client, key: &ActorKey) -> String {
    let shard = client.keys.actor_shard(&key.name);
    client.keys.of(shard, "count")
}

/// The two values that stand for an actor in a reply.
fn record(client: &Client, key: &ActorKey, reply: &mut Reply) -> Result<ActorRecord, StoreError> {
    let bytes = reply::bytes(reply.next()?)?;
    let meta = decode_meta(key, &reply::bytes(reply.next()?)?)?;
    let shard = client.keys.actor_shard(&key.name);
    decode_actor(key.clone(), &bytes, meta, shard)
}

fn encode_meta(key: &ActorKey, meta: &MetaRecord) -> Result<Vec<u8>, StoreError> {
    if meta.is_empty() {
        return Ok(Vec::new());
    }
    serde_json::to_vec(meta).map_err(|e| StoreError::Corrupt {
        what: format!("metadata of {key}"),
        why: e.to_string(),
    })
}

/// Metadata as stored; no bytes: none.
pub fn decode_meta(key: &ActorKey, bytes: &[u8]) -> Result<MetaRecord, StoreError> {
    if bytes.is_empty() {
        return Ok(MetaRecord::default());
    }
    serde_json::from_slice(bytes).map_err(|e| StoreError::Corrupt {
        what: format!("metadata of {key}"),
        why: e.to_string(),
    })
}

/// `namespace \0 name`, as scripts return it.
pub fn decode_key(bytes: &[u8]) -> Result<ActorKey, StoreError> {
    let text = String::from_utf8_lossy(bytes);
    let (namespace, name) = text.split_once('\0').ok_or_else(|| StoreError::Corrupt {
        what: "an actor's key".to_owned(),
        why: format!("{text:?} is not a namespace and a name"),
    })?;
    Ok(ActorKey::new(namespace, name))
}

pub async fn create(
    client: &Client,
    caps: &Caps,
    record: ActorRecord,
    cap: u64,
) -> Result<ActorRecord, StoreError> {
    let key = record.key.clone();
    let _place = caps.reserve(client, &key.namespace, cap).await?;
    let call = call(client, &scripts::CREATE, &key)
        .key(leases(client, &key))
        .key(count(client, &key))
        .key(client.keys.flat(&key.name))
        .arg(key.namespace.as_str())
        .arg(key.name.as_str())
        .arg(encode_actor(&record)?)
        .arg(encode_meta(&key, &record.meta)?)
        .durability(Durability::Fsync)
        .repeatable();
    let mut reply = client.call(call).await?.ok(&key)?;
    client.wrote.notify_waiters();
    self::record(client, &key, &mut reply)
}

pub async fn get(client: &Client, key: &ActorKey) -> Result<ActorRecord, StoreError> {
    let call = call(client, &scripts::GET, key).repeatable();
    let mut reply = client.call(call).await?.ok(key)?;
    record(client, key, &mut reply)
}

pub async fn get_flat(client: &Client, id: &str) -> Result<ActorRecord, StoreError> {
    let shard = client.keys.actor_shard(id);
    let call = Call::new(client, &scripts::GET_FLAT, shard)
        .key(client.keys.of(shard, "actors"))
        .key(client.keys.of(shard, "actormeta"))
        .key(client.keys.flat(id))
        .arg(id)
        .repeatable();
    let mut reply = client.call(call).await?.ok(&id)?;
    let bytes = reply::bytes(reply.next()?)?;
    let meta = reply::bytes(reply.next()?)?;
    let key = ActorKey::new(reply::text(reply.next()?)?, id);
    let meta = decode_meta(&key, &meta)?;
    decode_actor(key, &bytes, meta, shard)
}

fn edges(edges: &[Edge; 6]) -> Vec<u8> {
    let digit = |edge: &Edge| match edge {
        Edge::Refuse => b'0',
        Edge::TakeOver => b'1',
        Edge::Start(phase) => b'2' + *phase as u8,
        Edge::Preempt(phase) => b'8' + *phase as u8,
    };
    edges.iter().map(digit).collect()
}

pub async fn begin(client: &Client, begin: Begin) -> Result<Begun, StoreError> {
    let key = &begin.key;
    let desired = begin.desired.map(|d| (d as u8).to_string());
    let call = call(client, &scripts::BEGIN, key)
        .key(leases(client, key))
        .arg(edges(&begin.edges))
        .arg(desired.unwrap_or_default())
        .arg(begin.owner.to_be_bytes())
        .number(millis(begin.lease))
        .arg(if begin.boot { "1" } else { "" })
        .arg(
            begin
                .uid
                .map_or_else(Vec::new, |uid| uid.as_bytes().to_vec()),
        );
    let mut reply = client.call(call).await?;
    let now = reply.now;
    match reply.code.as_str() {
        "OK" => {
            client.wrote.notify_waiters();
            let record = record(client, key, &mut reply)?;
            let number = u8::try_from(reply::number(reply.next()?)?).ok();
            let before = number
                .and_then(Phase::from_number)
                .ok_or_else(|| reply.fail(key))?;
            Ok(Begun::Owned {
                record,
                before,
                now,
            })
        }
        "HELD" => Ok(Begun::Held {
            record: record(client, key, &mut reply)?,
            now,
        }),
        "REFUSED" => Ok(Begun::Refused {
            record: record(client, key, &mut reply)?,
            now,
        }),
        _ => Err(reply.fail(key)),
    }
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.min(LONGEST_LEASE).as_millis()).unwrap_or(0)
}

pub async fn commit(
    client: &Client,
    record: &ActorRecord,
    owner: u64,
    durability: Durability,
) -> Result<ActorRecord, StoreError> {
    let key = &record.key;
    let call = call(client, &scripts::COMMIT, key)
        .key(leases(client, key))
        .number(record.header.epoch.0)
        .arg(owner.to_be_bytes())
        .number((record.header.phase as u8).into())
        .number((record.header.desired as u8).into())
        .number(record.status.last_activity.0.min(LATEST))
        .arg(encode_status(key, &record.status)?)
        .arg(if record.header.yields { "1" } else { "" })
        .durability(durability)
        .repeatable();
    let mut reply = client.call(call).await?.ok(key)?;
    client.wrote.notify_waiters();
    self::record(client, key, &mut reply)
}

pub async fn renew(
    client: &Client,
    key: &ActorKey,
    epoch: Epoch,
    owner: u64,
    lease: Duration,
) -> Result<(), StoreError> {
    let call = call(client, &scripts::RENEW, key)
        .key(leases(client, key))
        .number(epoch.0)
        .arg(owner.to_be_bytes())
        .number(millis(lease))
        .repeatable();
    client.call(call).await?.ok(key)?;
    Ok(())
}

pub async fn touch(client: &Client, key: &ActorKey, at: Timestamp) -> Result<(), StoreError> {
    let call = call(client, &scripts::TOUCH, key)
        .number(at.0.min(LATEST))
        .repeatable();
    client.call(call).await?.ok(key)?;
    Ok(())
}

pub async fn update_spec(
    client: &Client,
    key: &ActorKey,
    expected: ResourceVersion,
    spec: &SpecRecord,
    meta: &MetaRecord,
) -> Result<ActorRecord, StoreError> {
    let due = spec.deleted.is_some() && meta.finalizers.is_empty();
    let script = match spec.deleted {
        Some(_) => &scripts::MARK_DELETED,
        None => &scripts::UPDATE_SPEC,
    };
    let call = call(client, script, key)
        .key(deletions(client, key))
        .number(expected.tick())
        .arg(encode_spec(key, spec)?)
        .arg(encode_meta(key, meta)?)
        .arg(if due { "1" } else { "" })
        .durability(Durability::Fsync);
    let mut reply = client.call(call).await?.ok(key)?;
    client.wrote.notify_waiters();
    record(client, key, &mut reply)
}

pub async fn remove(
    client: &Client,
    key: &ActorKey,
    epoch: Epoch,
    owner: u64,
) -> Result<(), StoreError> {
    let call = call(client, &scripts::REMOVE, key)
        .key(leases(client, key))
        .key(count(client, key))
        .key(client.keys.flat(&key.name))
        .key(deletions(client, key))
        .arg(key.namespace.as_str())
        .arg(key.name.as_str())
        .number(epoch.0)
        .arg(owner.to_be_bytes())
        .durability(Durability::Fsync);
    client.call(call).await?.ok(key)?;
    client.wrote.notify_waiters();
    Ok(())
}

pub async fn expired_leases(client: &Client, limit: usize) -> Result<Expiry, StoreError> {
    let replies = client
        .call_all(|shard| {
            Call::new(client, &scripts::EXPIRED, shard)
                .key(client.keys.of(shard, "leases"))
                .number(limit as u64)
                .repeatable()
        })
        .await?;
    let mut expiry = Expiry::default();
    for mut reply in replies {
        add_keys(&mut expiry.actors, &mut reply, limit)?;
        let left = reply::number_if_any(reply.next()?)?.map(Duration::from_millis);
        expiry.next = expiry.next.into_iter().chain(left).min();
    }
    Ok(expiry)
}

pub async fn end_leases(client: &Client, owner: u64) -> Result<u64, StoreError> {
    let replies = client
        .call_all(|shard| {
            Call::new(client, &scripts::END_LEASES, shard)
                .key(client.keys.of(shard, "actors"))
                .key(client.keys.of(shard, "leases"))
                .arg(owner.to_be_bytes())
                .repeatable()
        })
        .await?;
    let ended = replies.into_iter().map(|mut r| reply::number(r.next()?));
    ended.sum()
}

pub async fn deletions_due(client: &Client, limit: usize) -> Result<Vec<ActorKey>, StoreError> {
    let replies = client
        .call_all(|shard| {
            Call::new(client, &scripts::DELETIONS, shard)
                .key(client.keys.of(shard, "deletions"))
                .key(client.keys.of(shard, "leases"))
                .number(limit as u64)
                .repeatable()
        })
        .await?;
    let mut keys = Vec::new();
    for mut reply in replies {
        add_keys(&mut keys, &mut reply, limit)?;
    }
    Ok(keys)
}

/// Adds the keys that a reply names, to `limit` at most.
fn add_keys(keys: &mut Vec<ActorKey>, reply: &mut Reply, limit: usize) -> Result<(), StoreError> {
    for key in reply::array(reply.next()?)? {
        if keys.len() < limit {
            keys.push(decode_key(&reply::bytes(key)?)?);
        }
    }
    Ok(())
}
