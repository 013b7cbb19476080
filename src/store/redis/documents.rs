//! Small documents: templates and pools under `ate dev`. All in one shard, a log for each kind.

use super::client::{Call, Client};
use super::feed::{Entry, Piece, Source};
use super::keys::HOME;
use super::log;
use super::reply;
use super::scripts::{self, Lua};
use super::undo::{Scope, Undo};
use crate::api::names::ResourceVersion;
use crate::store::{Document, DocumentChange, Durability, Gone, StoreError};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::Notify;

/// Bytes of the stamp in front of a body.
const STAMP: usize = 7;

fn call(client: &Client, script: &'static Lua, kind: &str) -> Call {
    Call::new(client, script, HOME)
        .log(log_key(client, kind))
        .key(client.keys.of(HOME, &format!("documents:{kind}")))
}

fn log_key(client: &Client, kind: &str) -> String {
    client.keys.of(HOME, &format!("doclog:{kind}"))
}

/// The field of the clock that says how far the log of a kind was trimmed.
fn trimmed(kind: &str) -> String {
    format!("trimmed:{kind}")
}

fn decode(kind: &str, key: &str, stored: &[u8]) -> Result<Document, StoreError> {
    let corrupt = |why: &str| StoreError::Corrupt {
        what: format!("{kind} {key}"),
        why: why.to_owned(),
    };
    let (stamp, body) = stored
        .split_at_checked(STAMP)
        .ok_or_else(|| corrupt("it is too short"))?;
    let tick = stamp.iter().fold(0, |tick, b| tick << 8 | u64::from(*b));
    Ok(Document {
        key: key.to_owned(),
        version: ResourceVersion::from_tick(tick, HOME),
        body: String::from_utf8(body.to_vec()).map_err(|_| corrupt("it is not text"))?,
    })
}

pub async fn get(client: &Client, kind: &str, key: &str) -> Result<Option<Document>, StoreError> {
    let call = call(client, &scripts::GET_DOCUMENT, kind)
        .arg(key)
        .repeatable();
    let mut reply = client.call(call).await?.ok(&key)?;
    let stored = reply::bytes(reply.next()?)?;
    if stored.is_empty() {
        return Ok(None);
    }
    decode(kind, key, &stored).map(Some)
}

pub async fn put(
    client: &Client,
    kind: &str,
    key: &str,
    expected: Option<ResourceVersion>,
    body: Option<&str>,
) -> Result<ResourceVersion, StoreError> {
    let expected = expected.map(|v| v.tick().to_string());
    let call = call(client, &scripts::PUT_DOCUMENT, kind)
        .arg(key)
        .arg(expected.unwrap_or_default())
        .arg(body.unwrap_or_default())
        .number(body.is_none().into())
        .arg(trimmed(kind))
        .durability(Durability::Fsync);
    let mut reply = client.call(call).await?.ok(&key)?;
    client.wrote.notify_waiters();
    let tick = reply::number(reply.next()?)?;
    Ok(ResourceVersion::from_tick(tick, HOME))
}

pub async fn list(
    client: &Client,
    kind: &str,
    at: Option<ResourceVersion>,
) -> Result<(Vec<Document>, ResourceVersion), StoreError> {
    let call = call(client, &scripts::DOCUMENTS, kind).repeatable();
    let mut reply = client.call(call).await?.ok(&kind)?;
    let newest = log::version_at(reply.last);
    let at = at.unwrap_or(newest);
    if at > newest {
        return Err(Gone::Never.at(at));
    }
    let mut documents: BTreeMap<Vec<u8>, Vec<u8>> =
        reply::pairs(reply.next()?)?.into_iter().collect();
    if at < newest {
        undo(client, kind, at, &mut documents).await?;
    }
    let documents = documents
        .iter()
        .map(|(key, stored)| decode(kind, &String::from_utf8_lossy(key), stored))
        .collect::<Result<Vec<_>, _>>()?;
    Ok((documents, at))
}

async fn undo(
    client: &Client,
    kind: &str,
    at: ResourceVersion,
    documents: &mut BTreeMap<Vec<u8>, Vec<u8>>,
) -> Result<(), StoreError> {
    let scope = Scope {
        kind: "d",
        at,
        shard: HOME,
        log: Some((log_key(client, kind), trimmed(kind))),
        prefix: &[],
        after: &[],
    };
    for (key, first) in Undo::all(client, &scope).await?.first {
        if first.record.is_empty() {
            documents.remove(&key);
            continue;
        }
        let tick = std::str::from_utf8(&first.meta).ok();
        let tick: u64 = tick
            .and_then(|t| t.parse().ok())
            .ok_or_else(|| Gone::Trimmed.at(at))?;
        let stamp = &tick.to_be_bytes()[size_of::<u64>() - STAMP..];
        documents.insert(key, [stamp, &first.record].concat());
    }
    Ok(())
}

/// The log of a kind of documents.
pub struct Documents {
    /// Where.
    pub client: Arc<Client>,
    /// Which.
    pub kind: String,
}

#[async_trait]
impl Source for Documents {
    type Change = DocumentChange;

    async fn newest(&self) -> Result<ResourceVersion, StoreError> {
        let clock = Call::new(&self.client, &scripts::CLOCK, HOME).repeatable();
        Ok(log::version_at(self.client.call(clock).await?.last))
    }

    async fn read(&self, after: ResourceVersion) -> Result<Piece<DocumentChange>, StoreError> {
        let call = call(&self.client, &scripts::CHANGES, &self.kind)
            .number(0)
            .number(log::first_tick(after, HOME))
            .number(log::PIECE as u64)
            .arg(trimmed(&self.kind))
            .repeatable();
        let mut reply = self.client.call(call).await?.ok(&self.kind)?;
        if after.tick() > reply.last {
            return Err(Gone::Never.at(after));
        }
        let entries = log::entries(&mut reply, after, HOME)?;
        let cut = entries.len() >= log::PIECE;
        let end = entries.last().filter(|_| cut).map(|e| e.tick);
        let upto = log::version_at(end.unwrap_or(reply.last));
        let entries = entries.into_iter().map(|e| kept(&self.kind, e));
        let entries = entries.collect::<Result<_, _>>()?;
        Ok(Piece { entries, upto })
    }

    fn seen(&self) -> u64 {
        self.client.seen.of(HOME)
    }

    fn wrote(&self) -> &Notify {
        &self.client.wrote
    }
}

fn kept(kind: &str, entry: log::Logged) -> Result<Entry<DocumentChange>, StoreError> {
    let text = |bytes: Vec<u8>| {
        String::from_utf8(bytes).map_err(|_| StoreError::Corrupt {
            what: format!("the change log of {kind}"),
            why: "a document is not text".to_owned(),
        })
    };
    let body = |bytes: Vec<u8>| Some(bytes).filter(|b| !b.is_empty()).map(text).transpose();
    let version = ResourceVersion::from_tick(entry.tick, HOME);
    Ok(Entry {
        version,
        weight: entry.weight(),
        change: Arc::new(DocumentChange {
            version,
            key: text(entry.name)?,
            before: body(entry.before)?,
            after: body(entry.after)?,
        }),
    })
}
