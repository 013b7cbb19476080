//! The change log: lists, versions, watches.

use super::*;
use crate::api::names::ResourceVersion;
use crate::api::node::NodeUsage;
use crate::store::{Change, Image, Kind};
use futures::future::{join_all, poll_immediate};
use std::collections::BTreeSet;
use std::sync::Arc;

async fn now(store: &dyn Store) -> ResourceVersion {
    store.list_actors(None, None, 1).await.unwrap().version
}

/// What a watch gives from a version until it has seen `count` changes.
async fn watch(
    store: &dyn Store,
    kind: Kind,
    mut after: ResourceVersion,
    count: usize,
) -> Vec<Arc<Change>> {
    let mut seen: Vec<Arc<Change>> = Vec::new();
    while seen.len() < count {
        let changes = store.changes(kind, after, 100, PATIENCE).await.unwrap();
        assert!(!changes.items.is_empty(), "only {} of {count}", seen.len());
        assert!(changes.items.iter().all(|c| c.version <= changes.upto));
        after = changes.upto;
        seen.extend(changes.items);
    }
    seen
}

fn actor_of(image: &Option<Image>) -> Option<ActorRecord> {
    match image {
        Some(Image::Actor(record)) => Some((**record).clone()),
        Some(Image::Worker(_)) => panic!("a worker among actors"),
        None => None,
    }
}

pub async fn changes_carry_before_and_after(store: &dyn Store) {
    let start = now(store).await;
    let mut record = actor("team", "a");
    record.meta.labels.insert("k".into(), "v".into());
    let one = store.create_actor(record, CAP).await.unwrap();
    let two = owned_for_removal(store, &one.key).await;
    let epoch = two.header.epoch;
    store.remove_actor(&one.key, epoch, ME).await.unwrap();
    let seen = watch(store, Kind::Actor, start, 3).await;
    let images: Vec<_> = seen
        .iter()
        .map(|c| (actor_of(&c.before), actor_of(&c.after)))
        .collect();
    assert_eq!(images[0], (None, Some(one.clone())));
    assert_eq!(images[1], (Some(one.clone()), Some(two.clone())));
    assert_eq!(images[2], (Some(two), None));
    assert_eq!(seen[0].version, one.header.resource_version);
    assert!(seen.is_sorted_by(|a, b| a.version < b.version));
}

pub async fn a_list_and_a_watch_miss_nothing(store: &dyn Store) {
    let names: Vec<_> = (0..60).map(|i| format!("a{i}")).collect();
    let (before, after) = names.split_at(30);
    join_all(before.iter().map(|n| created(store, "team", n))).await;
    let (_, page) = tokio::join!(
        join_all(after.iter().map(|n| created(store, "team", n))),
        store.list_actors(None, None, 1000),
    );
    let page = page.unwrap();
    let mut known: BTreeSet<_> = page.items.iter().map(|r| r.key.name.clone()).collect();
    assert!(before.iter().all(|n| known.contains(n)));
    let mut at = page.version;
    loop {
        let changes = store.changes(Kind::Actor, at, 7, Duration::ZERO).await;
        let changes = changes.unwrap().items;
        let Some(last) = changes.last() else { break };
        assert!(changes.iter().all(|c| c.version > page.version));
        at = last.version;
        known.extend(
            changes
                .iter()
                .filter_map(|c| actor_of(&c.after))
                .map(|r| r.key.name),
        );
    }
    assert_eq!(known.len(), 60);
}

pub async fn a_watch_waits_for_the_first_change(store: &dyn Store) {
    let start = now(store).await;
    let mut seen = std::pin::pin!(watch(store, Kind::Actor, start, 1));
    assert!(poll_immediate(&mut seen).await.is_none());
    let (seen, stored) = tokio::join!(seen, created(store, "team", "a"));
    assert_eq!(actor_of(&seen[0].after), Some(stored));
}

pub async fn a_watch_that_sees_nothing_ends(store: &dyn Store) {
    let start = now(store).await;
    let wait = Duration::from_millis(60);
    let seen = store.changes(Kind::Actor, start, 10, wait).await.unwrap();
    assert!(seen.items.is_empty());
    assert!(seen.upto >= start);
}

pub async fn versions_never_rewind(store: &dyn Store) {
    let mut last = now(store).await;
    for i in 0..20 {
        let record = created(store, "team", &format!("a{i}")).await;
        assert!(record.header.resource_version > last);
        last = record.header.resource_version;
        let listed = now(store).await;
        assert!(listed >= last);
        last = listed;
    }
}

pub async fn kinds_are_apart(store: &dyn Store) {
    let start = now(store).await;
    created(store, "team", "a").await;
    let w = worker("team", "p", "w", "n1");
    let w = store.report_worker(&w).await.unwrap();
    let seen = watch(store, Kind::Worker, start, 1).await;
    assert_eq!(seen[0].before, None);
    assert_eq!(seen[0].after, Some(Image::Worker(Box::new(w.clone()))));
    let nothing = store.changes(Kind::Worker, seen[0].version, 10, Duration::ZERO);
    assert!(nothing.await.unwrap().items.is_empty());
    store.remove_worker(&w.pool, &w.key).await.unwrap();
    let seen = watch(store, Kind::Worker, seen[0].version, 1).await;
    assert_eq!(seen[0].after, None);
    assert_eq!(watch(store, Kind::Actor, start, 1).await.len(), 1);
}

pub async fn a_limit_cuts_without_a_gap(store: &dyn Store) {
    let start = now(store).await;
    let names: Vec<_> = (0..40).map(|i| format!("a{i}")).collect();
    join_all(names.iter().map(|n| created(store, "team", n))).await;
    let mut at = start;
    let mut seen = Vec::new();
    loop {
        let changes = store.changes(Kind::Actor, at, 3, Duration::ZERO).await;
        let changes = changes.unwrap().items;
        assert!(changes.len() <= 3);
        let Some(last) = changes.last() else { break };
        at = last.version;
        seen.extend(changes);
    }
    assert_eq!(seen.len(), 40);
    assert!(seen.is_sorted_by(|a, b| a.version < b.version));
}

pub async fn a_renewal_is_no_change(store: &dyn Store) {
    let stored = created(store, "team", "a").await;
    let mine = owned(store, waking(&stored.key, ME, LONG)).await;
    let start = now(store).await;
    let epoch = mine.header.epoch;
    store.renew(&mine.key, epoch, ME, LONG * 2).await.unwrap();
    store.touch(&mine.key, Timestamp::now()).await.unwrap();
    store
        .renew_node("n", "a:1", None, NodeUsage::default(), LONG)
        .await
        .unwrap();
    let read = store.get_actor(&mine.key).await.unwrap();
    assert_eq!(read.header.resource_version, mine.header.resource_version);
    let seen = store.changes(Kind::Actor, start, 10, Duration::ZERO).await;
    assert!(seen.unwrap().items.is_empty());
}

pub async fn every_watcher_sees_every_change_once(store: &dyn Store) {
    let start = now(store).await;
    let watchers = join_all((0..8).map(|_| watch(store, Kind::Actor, start, 50)));
    let writer = async {
        for i in 0..50 {
            created(store, "team", &format!("a{i}")).await;
        }
    };
    let (seen, ()) = tokio::join!(watchers, writer);
    for changes in &seen {
        assert_eq!(changes, &seen[0]);
        assert!(changes.is_sorted_by(|a, b| a.version < b.version));
    }
}
