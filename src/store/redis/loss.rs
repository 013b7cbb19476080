//! What the installation remembers of itself, and what is done when the store has lost writes.
//!
//! A shard whose newest stamp is below one that a client has seen was restored from an older state; so was one that a
//! server had up to an older stamp when it started (`boot.lua`), even if others wrote to it since. The incarnation is
//! raised by exactly one of the clients that notice, every shard's stamps continue above what was seen, and
//! every older version counts as expired.

use super::client::{Call, Client};
use super::keys::Keys;
use super::link::{self, Link};
use super::reply;
use super::scripts;
use crate::api::names::Incarnation;
use crate::store::StoreError;
use ::redis::Value;

/// The format of what is stored: layout of keys and of the change log.
const FORMAT: u64 = 1;

/// Registers a new installation or checks in with an existing one. KEYS: meta. ARGV: format, shards.
const CHECK_IN: &str = "
redis.call('HSETNX', KEYS[1], 'format', ARGV[1])
redis.call('HSETNX', KEYS[1], 'shards', ARGV[2])
redis.call('HSETNX', KEYS[1], 'incarnation', 1)
return redis.call('HMGET', KEYS[1], 'format', 'shards', 'incarnation')";

/// Raises the incarnation unless somebody else did. KEYS: meta. ARGV: the known one, format, shards.
const RAISE: &str = "
redis.call('HSETNX', KEYS[1], 'format', ARGV[2])
redis.call('HSETNX', KEYS[1], 'shards', ARGV[3])
local stored = tonumber(redis.call('HGET', KEYS[1], 'incarnation') or '0')
local known = tonumber(ARGV[1])
if stored <= known then
  stored = known + 1
  redis.call('HSET', KEYS[1], 'incarnation', stored)
end
return tostring(stored)";

fn parse(value: Value) -> Result<u64, StoreError> {
    reply::text(value)?
        .parse()
        .map_err(|e| StoreError::Corrupt {
            what: "the installation's record in the store".to_owned(),
            why: format!("{e}"),
        })
}

/// Checks format and number of shards; returns the incarnation.
pub async fn check_in(link: &Link, keys: &Keys) -> Result<Incarnation, StoreError> {
    let mut eval = ::redis::cmd("EVAL");
    eval.arg(CHECK_IN).arg(1).arg(keys.meta());
    eval.arg(FORMAT).arg(keys.shards());
    let value = link.send(&eval).await.map_err(link::to_store_error)?;
    let [format, shards, incarnation] = <[Value; 3]>::try_from(reply::array(value)?)
        .map_err(|_| mismatch("it has an unexpected form".to_owned()))?;
    let (format, shards) = (parse(format)?, parse(shards)?);
    if format != FORMAT {
        return Err(mismatch(format!(
            "its format is {format}, and this program writes format {FORMAT}"
        )));
    }
    if shards != u64::from(keys.shards()) {
        return Err(mismatch(format!(
            "it has {shards} shards, and {} are configured; the number is fixed when an installation is made",
            keys.shards()
        )));
    }
    Ok(Incarnation(parse(incarnation)?))
}

fn mismatch(why: String) -> StoreError {
    StoreError::Corrupt {
        what: "the installation's record in the store".to_owned(),
        why,
    }
}

/// The incarnation. Asks only when no reply has told it just now, so that it costs an operation nothing.
pub async fn read_incarnation(client: &Client) -> Result<Incarnation, StoreError> {
    if client.heard_just_now() && client.incarnation() > Incarnation(0) {
        return Ok(client.incarnation());
    }
    let mut get = ::redis::cmd("HGET");
    get.arg(client.keys.meta()).arg("incarnation");
    let stored = match client.plain(&get).await? {
        Value::Nil => Incarnation(0),
        value => Incarnation(parse(value)?),
    };
    if stored < client.incarnation() {
        return raise(client, client.incarnation()).await;
    }
    client.note_incarnation(stored);
    Ok(client.incarnation())
}

/// Raises the incarnation above `known`, unless somebody did.
async fn raise(client: &Client, known: Incarnation) -> Result<Incarnation, StoreError> {
    let mut eval = ::redis::cmd("EVAL");
    eval.arg(RAISE).arg(1).arg(client.keys.meta());
    eval.arg(known.0).arg(FORMAT).arg(client.keys.shards());
    let incarnation = Incarnation(parse(client.plain(&eval).await?)?);
    client.note_incarnation(incarnation);
    Ok(incarnation)
}

/// A shard has lost stamps that this client saw in an incarnation. Repaired once for all calls that notice.
pub async fn recover(
    client: &Client,
    known: Incarnation,
    shard: u16,
    last: u64,
) -> Result<(), StoreError> {
    let _turn = client.recovering.lock().await;
    if client.seen.incarnation(shard) > known {
        return Ok(());
    }
    let incarnation = raise(client, known).await?;
    tracing::warn!(
        shard,
        last,
        incarnation = incarnation.0,
        "the store lost writes; versions from before are expired"
    );
    let floor = client.seen.any() + 1;
    client
        .call_all(|shard| {
            Call::new(client, &scripts::RECOVER, shard)
                .number(floor)
                .number(incarnation.0)
                .blind()
                .repeatable()
        })
        .await?;
    Ok(())
}
