//! Workers and claims on them. All of a pool lies in one shard.

use super::client::{Call, Client};
use super::codec::{LATEST, decode_worker, encode_rest, phase_number};
use super::log;
use super::reply::{self, Reply};
use super::scripts::{self, Lua};
use super::undo::{Scope, Undo};
use crate::api::names::{Epoch, PoolKey, ResourceVersion, WorkerKey};
use crate::api::record::WorkerRecord;
use crate::store::{ClaimRequest, Page, StoreError};
use futures::future::try_join_all;
use std::collections::BTreeMap;
use uuid::Uuid;

fn call(client: &Client, script: &'static Lua, pool: &PoolKey) -> Call {
    Call::new(client, script, client.keys.pool_shard(pool))
        .key(client.keys.of_pool(pool, "workers"))
}

fn parse<T: std::str::FromStr>(what: &str, text: &[u8]) -> Result<T, StoreError>
where
    T::Err: std::fmt::Display,
{
    let text = String::from_utf8_lossy(text);
    text.parse().map_err(|e: T::Err| StoreError::Corrupt {
        what: format!("{what} {text:?}"),
        why: e.to_string(),
    })
}

/// `pool \0 worker`, as it stands in the log.
pub fn decode_name(bytes: &[u8]) -> Result<(PoolKey, WorkerKey), StoreError> {
    let mut parts = bytes.splitn(2, |b| *b == 0);
    let pool = parse("pool", parts.next().unwrap_or_default())?;
    let key = parse("worker", parts.next().unwrap_or_default())?;
    Ok((pool, key))
}

fn record(
    client: &Client,
    pool: &PoolKey,
    key: WorkerKey,
    reply: &mut Reply,
) -> Result<WorkerRecord, StoreError> {
    let bytes = reply::bytes(reply.next()?)?;
    decode_worker(pool.clone(), key, &bytes, client.keys.pool_shard(pool))
}

/// A record, then its key.
fn keyed(client: &Client, pool: &PoolKey, reply: &mut Reply) -> Result<WorkerRecord, StoreError> {
    let bytes = reply::bytes(reply.next()?)?;
    let key = parse("worker", &reply::bytes(reply.next()?)?)?;
    decode_worker(pool.clone(), key, &bytes, client.keys.pool_shard(pool))
}

pub async fn report(client: &Client, worker: &WorkerRecord) -> Result<WorkerRecord, StoreError> {
    let pool = &worker.pool;
    let shard = client.keys.pool_shard(pool);
    let call = call(client, &scripts::REPORT_WORKER, pool)
        .key(client.keys.of_pool(pool, "free"))
        .key(client.keys.of(shard, "pools"))
        .arg(pool.to_string())
        .arg(worker.key.to_string())
        .number(phase_number(worker.phase).into())
        .arg(worker.node.as_str())
        .arg(encode_rest(worker)?)
        .number(worker.created.0.min(LATEST))
        .repeatable();
    let mut reply = client.call(call).await?.ok(&worker.key)?;
    client.wrote.notify_waiters();
    record(client, pool, worker.key.clone(), &mut reply)
}

pub async fn claim(
    client: &Client,
    request: &ClaimRequest,
) -> Result<Option<WorkerRecord>, StoreError> {
    let pool = &request.pool;
    let claim = &request.claim;
    let mut call = call(client, &scripts::CLAIM, pool)
        .key(client.keys.of_pool(pool, "free"))
        .key(client.keys.of_pool(pool, "holders"))
        .arg(pool.to_string())
        .arg(claim.actor.to_string())
        .arg(claim.uid.into_bytes())
        .number(claim.epoch.0)
        .number(claim.deadline.0.min(LATEST))
        .number(request.nodes.is_some().into())
        .repeatable();
    for node in request.nodes.iter().flatten() {
        call = call.arg(node.as_str());
    }
    let mut reply = client.call(call).await?;
    match reply.code.as_str() {
        "NONE" => Ok(None),
        "OK" => {
            client.wrote.notify_waiters();
            keyed(client, pool, &mut reply).map(Some)
        }
        _ => Err(reply.fail(&claim.actor)),
    }
}

pub async fn release(
    client: &Client,
    pool: &PoolKey,
    worker: &WorkerKey,
    actor: Uuid,
    epoch: Epoch,
) -> Result<(), StoreError> {
    let call = call(client, &scripts::RELEASE, pool)
        .key(client.keys.of_pool(pool, "free"))
        .key(client.keys.of_pool(pool, "holders"))
        .arg(pool.to_string())
        .arg(worker.to_string())
        .arg(actor.into_bytes())
        .number(epoch.0)
        .repeatable();
    client.call(call).await?.ok(worker)?;
    client.wrote.notify_waiters();
    Ok(())
}

pub async fn remove(client: &Client, pool: &PoolKey, worker: &WorkerKey) -> Result<(), StoreError> {
    let shard = client.keys.pool_shard(pool);
    let call = call(client, &scripts::REMOVE_WORKER, pool)
        .key(client.keys.of_pool(pool, "free"))
        .key(client.keys.of_pool(pool, "holders"))
        .key(client.keys.of(shard, "pools"))
        .arg(pool.to_string())
        .arg(worker.to_string())
        .repeatable();
    client.call(call).await?.ok(worker)?;
    client.wrote.notify_waiters();
    Ok(())
}

/// Workers as they are now; no shard gives out a stamp up to the version any more.
pub async fn list(
    client: &Client,
    pool: Option<&PoolKey>,
) -> Result<Page<WorkerRecord>, StoreError> {
    let (floor, version) = log::version_of(client, None).await?;
    let items = current(client, pool, floor).await?;
    Ok(Page::of_workers(items, version))
}

/// All workers at a version.
pub async fn list_at(
    client: &Client,
    at: Option<ResourceVersion>,
) -> Result<Page<WorkerRecord>, StoreError> {
    let (floor, version) = log::version_of(client, at).await?;
    let name = |w: &WorkerRecord| (w.pool.clone(), w.key.clone());
    let current = current(client, None, floor).await?;
    let mut items: BTreeMap<_, _> = current.into_iter().map(|w| (name(&w), w)).collect();
    let scopes = (0..client.keys.shards()).map(|shard| Scope {
        kind: "w",
        at: version,
        shard,
        log: None,
        prefix: &[],
        after: &[],
    });
    let scopes: Vec<_> = scopes.collect();
    let undone = scopes.iter().map(|scope| Undo::all(client, scope));
    for (scope, undo) in scopes.iter().zip(try_join_all(undone).await?) {
        for (name, first) in undo.first {
            let (pool, key) = decode_name(&name)?;
            if first.record.is_empty() {
                items.remove(&(pool, key));
                continue;
            }
            let record = decode_worker(pool.clone(), key.clone(), &first.record, scope.shard)?;
            items.insert((pool, key), record);
        }
    }
    Ok(Page::of_workers(items.into_values().collect(), version))
}

/// The workers of a pool, or all, once every shard's stamps are above `floor`.
async fn current(
    client: &Client,
    pool: Option<&PoolKey>,
    floor: u64,
) -> Result<Vec<WorkerRecord>, StoreError> {
    let replies = client
        .call_all(|shard| {
            Call::new(client, &scripts::POOLS, shard)
                .key(client.keys.of(shard, "pools"))
                .number(floor)
                .repeatable()
        })
        .await?;
    let mut pools = Vec::new();
    for mut reply in replies {
        for name in reply::array(reply.next()?)? {
            let name: PoolKey = parse("pool", &reply::bytes(name)?)?;
            if pool.is_none_or(|wanted| *wanted == name) {
                pools.push(name);
            }
        }
    }
    let parts = pools.iter().map(|pool| of_pool(client, pool));
    Ok(try_join_all(parts).await?.into_iter().flatten().collect())
}

async fn of_pool(client: &Client, pool: &PoolKey) -> Result<Vec<WorkerRecord>, StoreError> {
    let call = call(client, &scripts::WORKERS, pool).repeatable();
    let mut reply = client.call(call).await?.ok(pool)?;
    let shard = client.keys.pool_shard(pool);
    reply::pairs(reply.next()?)?
        .into_iter()
        .map(|(key, bytes)| decode_worker(pool.clone(), parse("worker", &key)?, &bytes, shard))
        .collect()
}
