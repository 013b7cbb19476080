//! Whether the indexes say what the records say.

use super::super::RedisStore;
use super::super::actors::{decode_key, decode_meta};
use super::super::codec::{decode_actor, decode_worker};
use super::super::feed::Source;
use super::super::keys::actor_key;
use super::super::log::Records;
use super::super::reply;
use crate::api::names::{ActorKey, PoolKey, ResourceVersion};
use crate::api::record::{ActorRecord, MetaRecord, WorkerPhase, WorkerRecord};
use crate::store::{Image, Kind, Store};
use ::redis::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};

async fn ask(store: &RedisStore, command: &[&str]) -> Value {
    let mut cmd = ::redis::cmd(command[0]);
    cmd.arg(&command[1..]);
    store.client.plain(&cmd).await.unwrap()
}

async fn members(store: &RedisStore, command: &[&str]) -> Vec<Vec<u8>> {
    let items = reply::array(ask(store, command).await).unwrap();
    items
        .into_iter()
        .map(|v| reply::bytes(v).unwrap())
        .collect()
}

async fn hash(store: &RedisStore, key: &str) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let items = members(store, &["HGETALL", key]).await;
    let pairs = items.chunks(2).map(|c| (c[0].clone(), c[1].clone()));
    pairs.collect()
}

async fn scores(store: &RedisStore, key: &str) -> BTreeMap<Vec<u8>, u64> {
    let items = members(store, &["ZRANGE", key, "0", "-1", "WITHSCORES"]).await;
    let score = |b: &[u8]| String::from_utf8_lossy(b).parse::<f64>().unwrap() as u64;
    let pairs = items.chunks(2).map(|c| (c[0].clone(), score(&c[1])));
    pairs.collect()
}

/// Panics when anything is inconsistent. Nobody may write meanwhile.
pub async fn check(store: &RedisStore) {
    let mut newest = Newest::new();
    for shard in 0..store.client.keys.shards() {
        newest.extend(actors(store, shard).await);
        newest.extend(workers(store, shard).await);
    }
    logged(store, newest).await;
}

type Newest = HashMap<(Kind, String), ResourceVersion>;

async fn actors(store: &RedisStore, shard: u16) -> Newest {
    let keys = &store.client.keys;
    let of = |what: &str| keys.of(shard, what);
    let mut records: BTreeMap<ActorKey, ActorRecord> = BTreeMap::new();
    for member in members(store, &["ZRANGE", &of("actors"), "0", "-1"]).await {
        let end = member.iter().enumerate().filter(|(_, b)| **b == 0).nth(1);
        let (name, bytes) = member.split_at(end.unwrap().0);
        let key = decode_key(name).unwrap();
        assert_eq!(keys.actor_shard(&key.name), shard);
        let record = decode_actor(key.clone(), &bytes[1..], MetaRecord::default(), shard);
        assert!(records.insert(key, record.unwrap()).is_none(), "doubled");
    }
    let mut counts = BTreeMap::<Vec<u8>, Vec<u8>>::new();
    for (namespace, n) in count(records.keys().map(|k| k.namespace.as_str())) {
        counts.insert(namespace.into_bytes(), n.to_string().into_bytes());
    }
    assert_eq!(hash(store, &of("count")).await, counts);

    let leased: BTreeMap<_, _> = records
        .values()
        .filter_map(|r| Some((actor_key(&r.key), r.header.lease?.deadline.0)))
        .collect();
    assert_eq!(scores(store, &of("leases")).await, leased);
    for record in records.values() {
        let leased = record.header.lease.is_some();
        assert_eq!(leased, record.header.phase.is_transitional());
    }
    let metas = hash(store, &of("actormeta")).await;
    for key in metas.keys() {
        assert!(records.contains_key(&decode_key(key).unwrap()));
    }
    let held = |key: &ActorKey| {
        let meta = metas.get(actor_key(key).as_slice());
        let meta = meta.map(|bytes| decode_meta(key, bytes).unwrap());
        meta.is_some_and(|m| !m.finalizers.is_empty())
    };
    let due: BTreeSet<_> = records
        .values()
        .filter(|r| r.spec.deleted.is_some() && !held(&r.key))
        .map(|r| actor_key(&r.key))
        .collect();
    let indexed = scores(store, &of("deletions")).await;
    assert_eq!(indexed.into_keys().collect::<BTreeSet<_>>(), due);
    flat_ids(store, shard, &records).await;
    records
        .into_values()
        .map(|r| ((Kind::Actor, r.key.to_string()), r.header.resource_version))
        .collect()
}

fn count<'a>(names: impl Iterator<Item = &'a str>) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(name.to_owned()).or_default() += 1;
    }
    counts
}

async fn flat_ids(store: &RedisStore, shard: u16, records: &BTreeMap<ActorKey, ActorRecord>) {
    let keys = &store.client.keys;
    let expected: BTreeSet<_> = records
        .values()
        .filter(|r| r.status.flat)
        .map(|r| r.key.clone())
        .collect();
    let buckets: BTreeSet<_> = (0..256u32)
        .map(|b| keys.of(shard, &format!("flat:{b:x}")))
        .collect();
    let hashes = futures::future::join_all(buckets.iter().map(|b| hash(store, b))).await;
    let mut found = BTreeSet::new();
    for (bucket, ids) in buckets.iter().zip(hashes) {
        for (name, namespace) in ids {
            let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
            let key = ActorKey::new(text(namespace), text(name));
            assert_eq!(&keys.flat(&key.name), bucket);
            found.insert(key);
        }
    }
    assert_eq!(found, expected);
}

async fn workers(store: &RedisStore, shard: u16) -> Newest {
    let keys = &store.client.keys;
    let mut newest = Newest::new();
    for pool in members(store, &["SMEMBERS", &keys.of(shard, "pools")]).await {
        let pool: PoolKey = String::from_utf8(pool).unwrap().parse().unwrap();
        assert_eq!(keys.pool_shard(&pool), shard);
        let mut records = Vec::<WorkerRecord>::new();
        for (key, bytes) in hash(store, &keys.of_pool(&pool, "workers")).await {
            let key = String::from_utf8(key).unwrap().parse().unwrap();
            records.push(decode_worker(pool.clone(), key, &bytes, shard).unwrap());
        }
        assert!(!records.is_empty(), "a pool without workers is listed");
        let free: BTreeSet<_> = records
            .iter()
            .filter(|w| w.phase == WorkerPhase::Free)
            .map(|w| format!("{}\0{}", w.node, w.key).into_bytes())
            .collect();
        let index = scores(store, &keys.of_pool(&pool, "free")).await;
        assert_eq!(index.into_keys().collect::<BTreeSet<_>>(), free);
        let holders: BTreeMap<_, _> = records
            .iter()
            .filter_map(|w| Some((w.claim.as_ref()?.uid, w.key.to_string())))
            .map(|(actor, worker)| (actor.as_bytes().to_vec(), worker.into_bytes()))
            .collect();
        assert_eq!(hash(store, &keys.of_pool(&pool, "holders")).await, holders);
        for w in records {
            assert!(w.phase != WorkerPhase::Free || w.claim.is_none());
            newest.insert((Kind::Worker, w.key.to_string()), w.resource_version);
        }
    }
    newest
}

/// The log's last word on every record is the record. Only where nothing was trimmed.
async fn logged(store: &RedisStore, newest: Newest) {
    let mut logged = Newest::new();
    let mut at = ResourceVersion(0);
    loop {
        let piece = Records(store.client.clone()).read(at).await.unwrap();
        for change in piece.entries.iter().map(|e| &e.change) {
            let kind = change.kind().unwrap();
            let name = |image: &Image| match image {
                Image::Actor(r) => r.key.to_string(),
                Image::Worker(w) => w.key.to_string(),
            };
            if let Some(before) = &change.before {
                assert!(logged.remove(&(kind, name(before))).is_some());
            }
            if let Some(after) = &change.after {
                let earlier = logged.insert((kind, name(after)), change.version);
                assert_eq!(earlier, None);
            }
        }
        if piece.upto == at {
            break;
        }
        at = piece.upto;
    }
    assert_eq!(logged, newest);
    let incarnation = store.incarnation().await.unwrap();
    assert!(incarnation.0 > 0);
}
