//! Lists of actors: every page of a list is the state at the same version.

use super::actors::{decode_key, decode_meta};
use super::client::{Call, Client};
use super::codec::decode_actor;
use super::keys::actor_key;
use super::log;
use super::reply::{self, Reply};
use super::scripts;
use super::tail::{Plan, Tails};
use super::undo::Scope;
use crate::api::names::{ActorKey, ResourceVersion};
use crate::api::record::ActorRecord;
use crate::store::{ListRequest, Page, StoreError};
use std::collections::BTreeMap;

/// The longest page of a list; a longer one is asked for page by page.
const MAX_PAGE: usize = 1000;
/// What a shard is asked for beyond its even share of a page.
const PAGE_SLACK: usize = 16;

/// A record as it is stored: most of what shards send is beyond the page, and never decoded.
struct Raw {
    shard: u16,
    record: Vec<u8>,
    meta: Vec<u8>,
}

impl Raw {
    fn decode(self, key: ActorKey) -> Result<ActorRecord, StoreError> {
        let meta = decode_meta(&key, &self.meta)?;
        decode_actor(key, &self.record, meta, self.shard)
    }
}

/// One shard's part of a page.
struct Part {
    items: BTreeMap<ActorKey, Raw>,
    /// Complete up to here; `None`: to the end.
    upto: Option<ActorKey>,
    /// Actors of the shard that the whole rest of the list has.
    total: u64,
}

/// A page of a list.
pub async fn actors(
    client: &Client,
    tails: &Tails,
    list: &ListRequest<'_>,
) -> Result<Page<ActorRecord>, StoreError> {
    let limit = list.limit.clamp(1, MAX_PAGE);
    let _turn = client.turn_to_list(limit).await?;
    let share = limit.min(limit / usize::from(client.keys.shards()) * 2 + PAGE_SLACK);
    let (floor, at) = log::version_of(client, list.at).await?;
    let range = Range::of(list);
    let plan = |shard| tails.plan(shard, log::first_tick(at, shard), list.at.is_some());
    let plans: Vec<Plan> = (0..client.keys.shards()).map(plan).collect();
    let replies = client
        .call_all(|shard| {
            Call::new(client, &scripts::LIST, shard)
                .key(client.keys.of(shard, "actors"))
                .key(client.keys.of(shard, "actormeta"))
                .number(floor)
                .arg(range.min.clone())
                .arg(range.max.clone())
                .number(share as u64)
                .number(plans[usize::from(shard)].start())
                .number(log::first_tick(at, shard))
                .repeatable()
                .large()
        })
        .await?;
    let parts = (0u16..)
        .zip(replies.into_iter().zip(&plans))
        .map(|(shard, (reply, plan))| {
            let scope = range.scope(at, shard);
            part(client, (tails, *plan), reply, &range, scope, share)
        });
    let parts = futures::future::try_join_all(parts).await?;
    merge(parts, limit, at)
}

/// The keys of a list.
struct Range {
    /// Bounds of `ZRANGEBYLEX`.
    min: Vec<u8>,
    max: Vec<u8>,
    /// What the log's names begin with.
    prefix: Vec<u8>,
    /// The key before the first; empty: none.
    after: Vec<u8>,
    /// The only key, where one is asked for.
    only: Option<Vec<u8>>,
}

impl Range {
    fn of(list: &ListRequest<'_>) -> Self {
        let only = list.namespace.zip(list.name);
        let only = only.map(|(ns, name)| format!("{ns}\0{name}").into_bytes());
        let prefix = match (&only, list.namespace) {
            (Some(only), _) => only.clone(),
            (None, Some(ns)) => ns.as_bytes().to_vec(),
            (None, None) => Vec::new(),
        };
        let (mut min, max) = if prefix.is_empty() {
            (b"-".to_vec(), b"+".to_vec())
        } else {
            let bound = |open: u8, end: u8| [&[open][..], &prefix, &[end]].concat();
            (bound(b'[', 0), bound(b'(', 1))
        };
        if let Some(after) = list.after {
            // Past every record of that key: what follows the name there is \0.
            let past = format!("[{}\0{}\u{1}", after.namespace, after.name).into_bytes();
            min = min.max(past);
        }
        Self {
            min,
            max,
            prefix: match list.namespace {
                // The log's names end where a record would begin.
                Some(ns) if only.is_none() => format!("{ns}\0").into_bytes(),
                _ => prefix,
            },
            after: list.after.map(actor_key).unwrap_or_default(),
            only,
        }
    }

    fn scope(&self, at: ResourceVersion, shard: u16) -> Scope<'_> {
        Scope {
            kind: "a",
            at,
            shard,
            log: None,
            prefix: &self.prefix,
            after: &self.after,
        }
    }
}

async fn part(
    client: &Client,
    (tails, plan): (&Tails, Plan),
    mut reply: Reply,
    range: &Range,
    scope: Scope<'_>,
    share: usize,
) -> Result<Part, StoreError> {
    let members = reply::array(reply.next()?)?;
    let metas = reply::array(reply.next()?)?;
    let total = reply::number(reply.next()?)?;
    let cut = members.len() >= share;
    let mut items = BTreeMap::new();
    let mut upto = None;
    for (member, meta) in members.into_iter().zip(metas) {
        let (key, raw) = stored(&reply::bytes(member)?, reply::bytes(meta)?, scope.shard);
        upto = Some(key.clone());
        items.insert(key, raw);
    }
    let upto = upto.filter(|_| cut);
    let last_name = upto.as_ref().map(actor_key).unwrap_or_default();
    let (found, last) = (reply.next()?, reply.last);
    let undo = tails
        .undo(client, &scope, plan, found, last, &last_name)
        .await?;
    let of_range = |name: &[u8]| range.only.as_ref().is_none_or(|only| name == only);
    for (name, first) in undo.first.into_iter().filter(|(n, _)| of_range(n)) {
        let key = decode_key(&name)?;
        if first.record.is_empty() {
            items.remove(&key);
            continue;
        }
        let raw = Raw {
            shard: scope.shard,
            record: first.record,
            meta: first.meta,
        };
        items.insert(key, raw);
    }
    let total = match range.only {
        Some(_) => items.len() as u64,
        None => (total + undo.existed).saturating_sub(undo.exist),
    };
    Ok(Part { items, upto, total })
}

/// A record as it lies in the sorted set: `namespace \0 name \0 record`.
fn stored(member: &[u8], meta: Vec<u8>, shard: u16) -> (ActorKey, Raw) {
    let mut fields = member.splitn(3, |b| *b == 0);
    let (namespace, name) = (fields.next(), fields.next());
    let text = |b: Option<&[u8]>| String::from_utf8_lossy(b.unwrap_or_default()).into_owned();
    let key = ActorKey::new(text(namespace), text(name));
    let record = fields.next().unwrap_or_default().to_vec();
    let raw = Raw {
        shard,
        record,
        meta,
    };
    (key, raw)
}

/// The first `limit` of all parts in order. A part that was cut ends what is known to be complete, so a page may be
/// shorter than `limit`, or empty, and still have a next one.
fn merge(
    parts: Vec<Part>,
    limit: usize,
    version: ResourceVersion,
) -> Result<Page<ActorRecord>, StoreError> {
    let known = parts.iter().filter_map(|p| p.upto.clone()).min();
    let total: u64 = parts.iter().map(|p| p.total).sum();
    let mut items: Vec<_> = parts.into_iter().flat_map(|p| p.items).collect();
    items.sort_by(|(a, _), (b, _)| a.cmp(b));
    if let Some(known) = &known {
        items.retain(|(key, _)| key <= known);
    }
    let next = if items.len() > limit {
        items.truncate(limit);
        items.last().map(|(key, _)| key.clone())
    } else {
        known
    };
    let remaining = total.saturating_sub(items.len() as u64);
    Ok(Page {
        // Nothing follows: a part was cut right at the end.
        next: next.filter(|_| remaining > 0),
        items: items
            .into_iter()
            .map(|(key, raw)| raw.decode(key))
            .collect::<Result<_, _>>()?,
        version,
        remaining,
    })
}
