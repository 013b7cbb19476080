//! Reading the change log of all shards as one.
//!
//! Every shard's newest stamp is a promise: what it writes later has a later stamp. So first the newest stamp of
//! all shards is found, then every shard is raised to it and read; up to there the union is complete and in order.

use super::actors::{decode_key, decode_meta};
use super::client::{Call, Client};
use super::codec::{decode_actor, decode_worker};
use super::reply::{self, Reply};
use super::scripts;
use super::workers::decode_name;
use crate::api::names::ResourceVersion;
use crate::store::{Change, Image, Kind, StoreError};
use ::redis::Value;

/// The field of a shard's clock that says how far its log was trimmed.
pub const TRIMMED: &str = "trimmed";

/// The newest stamp of any shard.
pub async fn newest(client: &Client) -> Result<u64, StoreError> {
    let replies = client
        .call_all(|shard| Call::new(client, &scripts::CLOCK, shard).repeatable())
        .await?;
    Ok(replies.iter().map(|r| r.last).max().unwrap_or(0))
}

/// The version that covers a stamp in every shard.
pub fn version_at(tick: u64) -> ResourceVersion {
    ResourceVersion::from_tick(tick, (1 << ResourceVersion::SHARD_BITS) - 1)
}

/// The newest stamp of any shard, and the version of a list that is asked for at `at`. `Expired` when the store never
/// came to it: it lost writes since, or it never was.
pub async fn version_of(
    client: &Client,
    at: Option<ResourceVersion>,
) -> Result<(u64, ResourceVersion), StoreError> {
    let floor = newest(client).await?;
    match at {
        Some(at) if at.tick() > floor => Err(StoreError::Expired(at)),
        at => Ok((floor, at.unwrap_or(version_at(floor)))),
    }
}

/// The newest version, once no shard gives out a stamp up to it any more.
pub async fn raised(client: &Client) -> Result<ResourceVersion, StoreError> {
    let floor = newest(client).await?;
    client
        .call_all(|shard| {
            Call::new(client, &scripts::RAISE, shard)
                .number(floor)
                .repeatable()
        })
        .await?;
    Ok(version_at(floor))
}

/// A piece of the log.
pub struct Piece {
    /// In order.
    pub changes: Vec<(Kind, Change)>,
    /// Nothing is missing up to here.
    pub upto: ResourceVersion,
}

/// The first stamp that a reader after a version wants of a shard. No stamp is 0.
pub fn first_tick(after: ResourceVersion, shard: u16) -> u64 {
    let of_shard = ResourceVersion::from_tick(after.tick(), shard);
    (after.tick() + u64::from(of_shard <= after)).max(1)
}

/// Changes after a version, at most `limit` of each shard. `Expired` when one of them is gone.
pub async fn read(
    client: &Client,
    after: ResourceVersion,
    limit: usize,
) -> Result<Piece, StoreError> {
    let floor = newest(client).await?;
    if after.tick() > floor {
        // No reply of this store named that version: it lost writes since, or it never was.
        return Err(StoreError::Expired(after));
    }
    if after >= version_at(floor) {
        return Ok(Piece {
            changes: Vec::new(),
            upto: after,
        });
    }
    let replies = client
        .call_all(|shard| {
            Call::new(client, &scripts::CHANGES, shard)
                .number(floor)
                .number(first_tick(after, shard))
                .number(limit as u64)
                .arg(TRIMMED)
                .repeatable()
        })
        .await?;
    let mut changes = Vec::new();
    let mut complete = u64::MAX;
    for (shard, mut reply) in (0u16..).zip(replies) {
        let entries = entries(&mut reply, after, shard)?;
        let cut = entries.len() >= limit;
        let end = entries
            .last()
            .filter(|_| cut)
            .map_or(reply.last, |e| e.tick);
        complete = complete.min(end);
        for entry in entries {
            changes.push(change(entry, shard)?);
        }
    }
    let upto = version_at(complete);
    changes.retain(|(_, change)| change.version <= upto);
    changes.sort_by_key(|(_, change)| change.version);
    Ok(Piece { changes, upto })
}

/// An entry of a log.
pub struct Entry {
    /// Its stamp.
    pub tick: u64,
    kind: Vec<u8>,
    /// What it is about.
    pub name: Vec<u8>,
    /// Bytes before; none: it did not exist.
    pub before: Vec<u8>,
    /// Bytes after; none: it is gone.
    pub after: Vec<u8>,
    meta_before: Vec<u8>,
    meta_after: Vec<u8>,
}

fn strange() -> StoreError {
    StoreError::Corrupt {
        what: "an entry of the change log".to_owned(),
        why: "its form is unknown".to_owned(),
    }
}

/// The entries of a reply of `changes.lua`.
pub fn entries(
    reply: &mut Reply,
    after: ResourceVersion,
    shard: u16,
) -> Result<Vec<Entry>, StoreError> {
    let gone = reply::number(reply.next()?)?;
    if first_tick(after, shard) <= gone {
        return Err(StoreError::Expired(after));
    }
    reply::array(reply.next()?)?
        .into_iter()
        .map(entry)
        .collect()
}

fn entry(value: Value) -> Result<Entry, StoreError> {
    let [id, fields] = <[Value; 2]>::try_from(reply::array(value)?).map_err(|_| strange())?;
    let id = reply::text(id)?;
    let tick = id.split_once('-').and_then(|(tick, _)| tick.parse().ok());
    let fields: Vec<Vec<u8>> = reply::array(fields)?
        .into_iter()
        .skip(1)
        .step_by(2)
        .map(reply::bytes)
        .collect::<Result<_, _>>()?;
    let [kind, name, before, after, meta_before, meta_after] =
        <[Vec<u8>; 6]>::try_from(fields).map_err(|_| strange())?;
    Ok(Entry {
        tick: tick.ok_or_else(strange)?,
        kind,
        name,
        before,
        after,
        meta_before,
        meta_after,
    })
}

fn change(entry: Entry, shard: u16) -> Result<(Kind, Change), StoreError> {
    let version = ResourceVersion::from_tick(entry.tick, shard);
    let kind = match entry.kind.as_slice() {
        b"a" => Kind::Actor,
        b"w" => Kind::Worker,
        _ => return Err(strange()),
    };
    let image = |bytes: &[u8], meta: &[u8]| {
        if bytes.is_empty() {
            return Ok(None);
        }
        Ok(Some(match kind {
            Kind::Actor => {
                let key = decode_key(&entry.name)?;
                let meta = decode_meta(&key, meta)?;
                Image::Actor(Box::new(decode_actor(key, bytes, meta, shard)?))
            }
            Kind::Worker => {
                let (pool, key) = decode_name(&entry.name)?;
                Image::Worker(Box::new(decode_worker(pool, key, bytes, shard)?))
            }
        }))
    };
    let change = Change {
        version,
        before: image(&entry.before, &entry.meta_before)?,
        after: image(&entry.after, &entry.meta_after)?,
    };
    Ok((kind, change))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_skips_what_it_has_seen_of_each_shard() {
        let after = ResourceVersion::from_tick(100, 3);
        assert_eq!(first_tick(after, 2), 101);
        assert_eq!(first_tick(after, 3), 101);
        assert_eq!(first_tick(after, 4), 100);
        assert_eq!(first_tick(ResourceVersion(0), 4), 1);
    }
}
