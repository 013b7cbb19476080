//! Lists at a version.

use super::*;
use crate::api::names::ResourceVersion;
use crate::store::{Image, Kind, ListRequest, Page, StoreError};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// Everything, as a page of a hundred.
const ALL: ListRequest<'static> = ListRequest {
    namespace: None,
    name: None,
    after: None,
    limit: 100,
    at: None,
};

/// The pages of a list, all at the version of the first.
async fn pages(
    store: &dyn Store,
    first: ListRequest<'_>,
) -> Result<(Vec<ActorRecord>, ResourceVersion), StoreError> {
    let mut page = store.actors_at(&first).await?;
    let version = page.version;
    let mut items = page.items;
    while let Some(after) = page.next {
        let next = ListRequest {
            after: Some(&after),
            at: Some(version),
            ..first
        };
        tokio::task::yield_now().await;
        page = store.actors_at(&next).await?;
        assert_eq!(page.version, version);
        items.extend(page.items);
    }
    assert!(items.is_sorted_by(|a, b| a.key < b.key));
    Ok((items, version))
}

/// The state at a version, from the log.
async fn replayed(
    store: &dyn Store,
    start: ResourceVersion,
    upto: ResourceVersion,
) -> BTreeMap<ActorKey, ActorRecord> {
    let mut state = BTreeMap::new();
    let mut at = start;
    loop {
        let changes = store.changes(Kind::Actor, at, 500, Duration::ZERO).await;
        let changes = changes.unwrap().items;
        let Some(last) = changes.last() else {
            return state;
        };
        at = last.version;
        for change in changes.into_iter().filter(|c| c.version <= upto) {
            match (&change.before, &change.after) {
                (_, Some(Image::Actor(record))) => {
                    state.insert(record.key.clone(), (**record).clone());
                }
                (Some(Image::Actor(record)), None) => {
                    state.remove(&record.key);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

/// Creates, changes and removes actors of few names until told to stop.
async fn churn(store: &dyn Store, seed: u64, stop: &AtomicBool) {
    let mut rng = StdRng::seed_from_u64(seed);
    while !stop.load(Ordering::Relaxed) {
        tokio::task::yield_now().await;
        let namespace = ["a", "a-b", "b"][rng.random_range(0..3)];
        let key = ActorKey::new(namespace, format!("n{}", rng.random_range(0..25)));
        match rng.random_range(0..3) {
            0 => {
                let mut record = actor(namespace, &key.name);
                if rng.random_bool(0.5) {
                    record.meta.labels.insert("seed".into(), seed.to_string());
                }
                drop(store.create_actor(record, CAP).await);
            }
            1 => {
                if let Ok(old) = store.get_actor(&key).await {
                    let mut spec = old.spec.clone();
                    spec.generation += 1;
                    let version = old.header.resource_version;
                    drop(store.update_spec(&key, version, &spec, &old.meta).await);
                }
            }
            _ => {
                let begin = Begin {
                    edges: [Edge::Start(Phase::Suspending); 6],
                    ..waking(&key, seed, LONG)
                };
                if let Ok(Begun::Owned { record, .. }) = store.begin(begin).await {
                    let epoch = record.header.epoch;
                    drop(store.remove_actor(&key, epoch, seed).await);
                }
            }
        }
    }
}

pub async fn pages_are_the_state_at_one_version(store: &dyn Store) {
    let start = store.version().await.unwrap();
    for i in 0..20 {
        created(store, "a", &format!("n{i}")).await;
    }
    let stop = AtomicBool::new(false);
    let lister = async {
        let mut lists = Vec::new();
        let mut rng = StdRng::seed_from_u64(7);
        for round in 0..12 {
            let request = ListRequest {
                limit: rng.random_range(1..9),
                namespace: (round % 3 == 0).then_some("a"),
                ..ALL
            };
            lists.push((request, pages(store, request).await.unwrap()));
        }
        stop.store(true, Ordering::Relaxed);
        lists
    };
    let (lists, ..) = tokio::join!(
        lister,
        churn(store, 1, &stop),
        churn(store, 2, &stop),
        churn(store, 3, &stop)
    );
    let mut newer = 0;
    for (request, (items, version)) in lists {
        let mut expected = replayed(store, start, version).await;
        expected.retain(|k, _| request.namespace.is_none_or(|ns| k.namespace == ns));
        let expected: Vec<_> = expected.into_values().collect();
        assert_eq!(items, expected, "{request:?} at {version}");
        newer += usize::from(store.version().await.unwrap() > version);
        // The same list again, now that it is history.
        let at = Some(version);
        let (again, _) = pages(store, ListRequest { at, ..request }).await.unwrap();
        assert_eq!(again, expected);
    }
    assert!(newer > 0);
}

pub async fn a_page_undoes_create_delete_and_recreate(store: &dyn Store) {
    let mut labelled = actor("team", "b");
    labelled.meta.labels.insert("k".into(), "v".into());
    let old = store.create_actor(labelled, CAP).await.unwrap();
    created(store, "team", "c").await;
    let before = pages(store, ALL).await.unwrap();
    created(store, "team", "a").await;
    let mine = owned_for_removal(store, &old.key).await;
    let epoch = mine.header.epoch;
    store.remove_actor(&old.key, epoch, ME).await.unwrap();
    let removed = pages(store, ALL).await.unwrap();
    created(store, "team", "b").await;
    let now = pages(store, ALL).await.unwrap();
    let names = |(items, _): &(Vec<ActorRecord>, _)| -> Vec<String> {
        items.iter().map(|r| r.key.name.clone()).collect()
    };
    assert_eq!(names(&before), ["b", "c"]);
    assert_eq!(names(&removed), ["a", "c"]);
    assert_eq!(names(&now), ["a", "b", "c"]);
    for limit in [1, 2, 100] {
        for then in [&before, &removed, &now] {
            let at = Some(then.1);
            let again = pages(store, ListRequest { at, limit, ..ALL }).await;
            assert_eq!(again.unwrap(), *then);
        }
    }
    assert_eq!(before.0[0], old);
}

pub async fn one_name_is_listed_at_a_version(store: &dyn Store) {
    let old = created(store, "team", "a").await;
    created(store, "team", "a-1").await;
    let one = ListRequest {
        namespace: Some("team"),
        name: Some("a"),
        ..ALL
    };
    let page = store.actors_at(&one).await.unwrap();
    assert_eq!((page.items, page.next), (vec![old.clone()], None));
    let version = page.version;
    let new = owned(store, waking(&old.key, ME, LONG)).await;
    let other = ActorKey::new("team", "a-1");
    owned(store, waking(&other, ME, LONG)).await;
    let at = Some(version);
    let page = store.actors_at(&ListRequest { at, ..one }).await.unwrap();
    assert_eq!(page.items, [old]);
    assert_eq!(store.actors_at(&one).await.unwrap().items, [new]);
    let none = ListRequest {
        name: Some("b"),
        ..one
    };
    assert!(store.actors_at(&none).await.unwrap().items.is_empty());
}

pub async fn what_remains_is_counted(store: &dyn Store) {
    for i in 0..30 {
        created(store, ["a", "b"][i % 2], &format!("n{i}")).await;
    }
    let list = ListRequest { limit: 4, ..ALL };
    let first = store.actors_at(&list).await.unwrap();
    assert_eq!(first.remaining, 30 - first.items.len() as u64);
    // What comes and goes later does not count.
    for i in 0..5 {
        created(store, "b", &format!("later{i}")).await;
        let key = ActorKey::new("b", format!("n{}", 2 * i + 1));
        let mine = owned_for_removal(store, &key).await;
        let epoch = mine.header.epoch;
        store.remove_actor(&key, epoch, ME).await.unwrap();
    }
    let (mut seen, mut page) = (first.items.len() as u64, first.clone());
    while let Some(after) = page.next {
        let (after, at) = (Some(&after), Some(first.version));
        page = store
            .actors_at(&ListRequest { after, at, ..list })
            .await
            .unwrap();
        seen += page.items.len() as u64;
        assert_eq!(page.remaining, 30 - seen);
    }
    assert_eq!(seen, 30);
    let namespace = Some("a");
    let list = ListRequest { namespace, ..list };
    let page: Page<_> = store.actors_at(&list).await.unwrap();
    assert_eq!(page.remaining, 15 - page.items.len() as u64);
}

pub async fn no_write_goes_below_a_list(store: &dyn Store) {
    for i in 0..20 {
        let name = format!("a{i}");
        let (page, record) = tokio::join!(store.actors_at(&ALL), created(store, "team", &name));
        let page = page.unwrap();
        let listed = page.items.contains(&record);
        assert_eq!(listed, record.header.resource_version <= page.version);
        let later = created(store, "team", &format!("b{i}")).await;
        assert!(later.header.resource_version > page.version);
        let version = store.version().await.unwrap();
        assert!(version >= later.header.resource_version);
        let later = created(store, "team", &format!("c{i}")).await;
        assert!(later.header.resource_version > version);
    }
}

pub async fn a_version_that_never_was_is_expired(store: &dyn Store) {
    created(store, "team", "a").await;
    let at = Some(ResourceVersion(1 << 62));
    let list = ListRequest { at, ..ALL };
    let expired = |e| matches!(e, Some(StoreError::Expired(_)));
    assert!(expired(store.actors_at(&list).await.err()));
    assert!(expired(store.workers_at(at).await.err()));
    assert!(expired(store.list_documents("pool", at).await.err()));
}

pub async fn workers_are_listed_at_a_version(store: &dyn Store) {
    let report = async |pool, name, ip: &str| {
        let mut w = worker("team", pool, name, "n1");
        w.ip = ip.into();
        store.report_worker(&w).await.unwrap()
    };
    let a = report("p", "a", "1").await;
    let b = report("q", "b", "1").await;
    let then = store.workers_at(None).await.unwrap();
    assert_eq!(then.items, [a.clone(), b.clone()]);
    report("p", "a", "2").await;
    store.remove_worker(&b.pool, &b.key).await.unwrap();
    report("r", "c", "1").await;
    let now = store.workers_at(None).await.unwrap();
    assert_eq!(now.items.len(), 2);
    assert_eq!(store.workers_at(Some(then.version)).await.unwrap(), then);
    assert_eq!(store.workers_at(Some(now.version)).await.unwrap(), now);
}

pub async fn documents_are_listed_at_a_version(store: &dyn Store) {
    let put = async |key, expected, body| {
        let put = store.put_document("pool", key, expected, body).await;
        put.unwrap()
    };
    let empty = store.list_documents("pool", None).await.unwrap();
    assert!(empty.1.0 > 0);
    let a = put("team/a", None, Some("{}")).await;
    let b = put("team/b", None, Some("{}")).await;
    let then = store.list_documents("pool", None).await.unwrap();
    let a = put("team/a", Some(a), Some("{\"x\":1}")).await;
    put("team/a", Some(a), Some("{\"x\":2}")).await;
    put("team/b", Some(b), None).await;
    put("team/c", None, Some("{}")).await;
    let now = store.list_documents("pool", None).await.unwrap();
    for list in [empty, then, now] {
        let again = store.list_documents("pool", Some(list.1)).await;
        assert_eq!(again.unwrap(), list);
    }
}
