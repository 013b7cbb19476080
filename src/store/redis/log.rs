//! Reading the change log of all shards as one.
//!
//! Every shard's newest stamp is a promise: what it writes later has a later stamp. So first the newest stamp of
//! all shards is found, then every shard is raised to it and read; up to there the union is complete and in order.

use super::actors::{decode_key, decode_meta};
use super::client::{Call, Client};
use super::codec::{decode_actor, decode_worker};
use super::feed::{Entry, Piece, Source};
use super::reply::{self, Past, Reply};
use super::scripts;
use super::workers::decode_name;
use crate::api::names::ResourceVersion;
use crate::api::record::ActorRecord;
use crate::store::{Change, Gone, Image, Kind, StoreError};
use ::redis::Value;
use async_trait::async_trait;
use std::sync::Arc;
use tokio::sync::Notify;

/// Changes read from one shard at once.
pub const PIECE: usize = 500;
/// How much larger records are in memory than as bytes.
const DECODED: usize = 3;
/// How often a read is made again because the store was started meanwhile.
const STARTS: u32 = 3;
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
        Some(at) if at.tick() > floor => Err(Gone::Never.at(at)),
        at => Ok((floor, at.unwrap_or(version_at(floor)))),
    }
}

/// The newest version, once no shard gives out a stamp up to it any more.
pub async fn raised(client: &Client) -> Result<ResourceVersion, StoreError> {
    for _ in 0..STARTS {
        let floor = newest(client).await?;
        let replies = client
            .call_all(|shard| {
                Call::new(client, &scripts::RAISE, shard)
                    .number(floor)
                    .repeatable()
            })
            .await?;
        if !replies.iter().any(|r| r.start().doubts_version(floor)) {
            return Ok(version_at(floor));
        }
    }
    Err(starting())
}

/// Reads at the version that is asked for; where none is, again when the store was started between finding the newest one
/// and reading.
pub async fn afresh<T, F>(
    at: Option<ResourceVersion>,
    read: impl Fn() -> F,
) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    for _ in 1..STARTS {
        match read().await {
            Err(StoreError::Expired(_)) if at.is_none() => {}
            other => return other,
        }
    }
    read().await
}

fn starting() -> StoreError {
    StoreError::Unavailable("it is started again and again".into())
}

/// The first stamp that a reader after a version wants of a shard. No stamp is 0.
pub fn first_tick(after: ResourceVersion, shard: u16) -> u64 {
    let of_shard = ResourceVersion::from_tick(after.tick(), shard);
    (after.tick() + u64::from(of_shard <= after)).max(1)
}

/// The log of actors and workers.
pub struct Records(pub Arc<Client>);

#[async_trait]
impl Source for Records {
    type Change = Change;

    async fn newest(&self) -> Result<ResourceVersion, StoreError> {
        raised(&self.0).await
    }

    async fn read(&self, after: ResourceVersion) -> Result<Piece<Change>, StoreError> {
        let mut floor = self.0.seen.any();
        for again in 0..STARTS {
            let read = read(&self.0, after, floor).await?;
            // Others may have written meanwhile: the other shards' promises do not reach that far then.
            if read.sound && (again > 0 || read.newest <= floor) {
                return Ok(read.piece);
            }
            floor = read.newest;
        }
        Err(starting())
    }

    fn seen(&self) -> u64 {
        self.0.seen.any()
    }

    fn wrote(&self) -> &Notify {
        &self.0.wrote
    }

    async fn news(&self, after: ResourceVersion) -> bool {
        self.0.news(|shard| first_tick(after, shard)).await
    }
}

/// What was read of all shards.
struct Read {
    piece: Piece<Change>,
    /// The newest stamp.
    newest: u64,
    /// No server was started while it was read: otherwise one that answered after its start may not have come to what
    /// others, or itself, had promised before.
    sound: bool,
}

/// Changes after a version once every shard's stamps are above `floor`. `Expired` when one of them is gone.
async fn read(client: &Client, after: ResourceVersion, floor: u64) -> Result<Read, StoreError> {
    let replies = client
        .call_all(|shard| {
            Call::new(client, &scripts::CHANGES, shard)
                .number(floor)
                .number(first_tick(after, shard))
                .number(PIECE as u64)
                .arg(TRIMMED)
                .repeatable()
        })
        .await?;
    let newest = replies.iter().map(|r| r.last).max().unwrap_or(0);
    if after.tick() > newest {
        // No reply of this store named that version: it lost writes since, or it never was.
        return Err(Gone::Never.at(after));
    }
    let starts: Vec<_> = replies.iter().map(Reply::start).collect();
    let mut entries = Vec::new();
    let mut complete = u64::MAX;
    for (shard, mut reply) in (0u16..).zip(replies) {
        let of_shard = self::entries(&mut reply, after, shard)?;
        let cut = of_shard.len() >= PIECE;
        let end = of_shard
            .last()
            .filter(|_| cut)
            .map_or(reply.last, |e| e.tick);
        complete = complete.min(end);
        for entry in of_shard {
            entries.push(kept(entry, shard)?);
        }
    }
    let upto = version_at(complete);
    entries.retain(|e| e.version <= upto);
    entries.sort_by_key(|e| e.version);
    Ok(Read {
        piece: Piece { entries, upto },
        newest,
        sound: !starts.iter().any(|start| start.doubts_version(complete)),
    })
}

/// An entry as it lies in a log.
pub struct Logged {
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

impl Logged {
    /// About how many bytes it takes when it is decoded.
    pub fn weight(&self) -> usize {
        let images = [&self.before, &self.after].map(Vec::len);
        let metas = [&self.meta_before, &self.meta_after].map(Vec::len);
        let record = size_of::<ActorRecord>() + DECODED * images.iter().max().unwrap_or(&0);
        2 * record + DECODED * metas.iter().sum::<usize>()
    }
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
) -> Result<Vec<Logged>, StoreError> {
    Past::of(reply.next()?)?.reaches(first_tick(after, shard), after)?;
    reply::array(reply.next()?)?
        .into_iter()
        .map(entry)
        .collect()
}

fn entry(value: Value) -> Result<Logged, StoreError> {
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
    Ok(Logged {
        tick: tick.ok_or_else(strange)?,
        kind,
        name,
        before,
        after,
        meta_before,
        meta_after,
    })
}

fn kept(entry: Logged, shard: u16) -> Result<Entry<Change>, StoreError> {
    let weight = entry.weight();
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
    Ok(Entry {
        version,
        weight,
        change: Arc::new(change),
    })
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
