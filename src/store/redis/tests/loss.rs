//! A store that lost writes.

use super::fsck;
use crate::api::names::{ActorKey, Incarnation};
use crate::store::conformance::leases::eventually;
use crate::store::conformance::*;
use crate::store::testing::TestServer;
use crate::store::{Gone, Kind, RedisStore, Store, StoreError};
use std::time::Duration;

#[tokio::test]
async fn lost_writes_are_noticed_once_by_whoever_saw_more() {
    let server = TestServer::single();
    let options = server.options();
    let store = RedisStore::connect(options.clone()).await.unwrap();
    let other = RedisStore::connect(options).await.unwrap();
    let old = created(&store, "team", "a").await;
    let old = old.header.resource_version;
    other.list_actors(None, None, 1).await.unwrap();
    assert_eq!(store.incarnation().await.unwrap(), Incarnation(1));

    server.ask(&["FLUSHALL"]);
    let new = created(&store, "team", "a").await;
    assert!(new.header.resource_version > old);
    assert_eq!(store.incarnation().await.unwrap(), Incarnation(2));
    other.get_actor(&new.key).await.unwrap();
    assert_eq!(other.incarnation().await.unwrap(), Incarnation(2));
    for store in [&store, &other] {
        let seen = store.changes(Kind::Actor, old, 10, Duration::ZERO).await;
        assert!(matches!(seen, Err(StoreError::Expired(v)) if v.version == old));
        let list = store.workers_at(Some(old)).await;
        assert!(matches!(list, Err(StoreError::Expired(v)) if v.version == old));
        let page = store.list_actors(None, None, 1).await.unwrap();
        let seen = store.changes(Kind::Actor, page.version, 10, Duration::ZERO);
        assert!(seen.await.unwrap().items.is_empty());
    }
}

#[tokio::test]
async fn a_watch_that_ran_while_writes_were_lost_ends() {
    let server = TestServer::single();
    let store = server.store().await;
    created(&store, "team", "a").await;
    let page = store.list_actors(None, None, 1).await.unwrap();
    let trips = store.round_trips();
    let watch = store.changes(Kind::Actor, page.version, 10, PATIENCE);
    let (seen, ()) = tokio::join!(watch, async {
        eventually("the log is being read", || async {
            (store.round_trips() > trips + 100).then_some(())
        })
        .await;
        server.ask(&["FLUSHALL"]);
    });
    assert!(matches!(seen, Err(StoreError::Expired(_))), "{seen:?}");
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let server = TestServer::single();
    let store = server.store().await;
    let stored = created(&store, "team", "a").await;
    let page = store.list_actors(None, None, 1).await.unwrap();
    server.kill_and_start();
    assert_eq!(store.get_actor(&stored.key).await.unwrap(), stored);
    assert_eq!(store.incarnation().await.unwrap(), Incarnation(1));
    let next = created(&store, "team", "b").await;
    let seen = store.changes(Kind::Actor, page.version, 10, PATIENCE).await;
    assert_eq!(seen.unwrap().items[0].version, next.header.resource_version);
    fsck::check(&store).await;
}

/// The one who saw the write that was lost comes last; those before have written already.
#[tokio::test]
async fn a_lost_write_is_noticed_after_others_wrote() {
    let server = TestServer::single();
    let options = server.options();
    let store = RedisStore::connect(options.clone()).await.unwrap();
    let first = created(&store, "team", "a").await;
    let other = RedisStore::connect(options.clone()).await.unwrap();
    other.list_actors(None, None, 1).await.unwrap();
    let before = server.copy();
    let lost = created(&store, "team", "lost")
        .await
        .header
        .resource_version;
    server.kill_and_start_on(&before);

    // A process that knows nothing, and one that saw less.
    let new = RedisStore::connect(options).await.unwrap();
    for (of, store) in [("new", &new), ("other", &other)] {
        let names = (0..64).map(|i| format!("{of}-{i}"));
        for name in names {
            let made = created(store, "team", &name).await;
            assert!(made.header.resource_version > lost);
        }
        let seen = store.changes(Kind::Actor, lost, 10, Duration::ZERO).await;
        assert!(matches!(seen, Err(StoreError::Expired(_))), "{seen:?}");
        let list = store.workers_at(Some(lost)).await;
        assert!(matches!(list, Err(StoreError::Expired(_))), "{list:?}");
        assert_eq!(store.incarnation().await.unwrap(), Incarnation(1));
    }
    let old = first.header.resource_version;
    new.changes(Kind::Actor, old, 10, Duration::ZERO)
        .await
        .unwrap();
    let gone = ActorKey::new("team", "lost");
    let read = store.get_actor(&gone).await;
    assert!(matches!(read, Err(StoreError::NotFound(_))));
    assert_eq!(store.incarnation().await.unwrap(), Incarnation(2));
    for store in [&store, &other, &new] {
        let seen = store.changes(Kind::Actor, old, 10, Duration::ZERO).await;
        assert!(matches!(seen, Err(StoreError::Expired(_))), "{seen:?}");
    }
}

/// Versions that were given before a start, by whatever shard and however shortly before, and right after one.
#[tokio::test]
async fn a_store_that_lost_nothing_expires_nothing() {
    let server = TestServer::single();
    let store = server.store().await;
    let mut given = vec![];
    for start in 0..3 {
        for n in 0..8 {
            let made = created(&store, "team", &format!("a{start}-{n}")).await;
            given.push(made.header.resource_version);
        }
        server.kill_and_start();
        for after in &given {
            let seen = store
                .changes(Kind::Actor, *after, 100, Duration::ZERO)
                .await;
            let seen = seen.unwrap().items.into_iter().map(|c| c.version);
            let newer = given.iter().copied().filter(|v| v > after);
            assert!(seen.eq(newer), "after {after}, start {start}");
            store.workers_at(Some(*after)).await.unwrap();
        }
    }
    assert_eq!(store.incarnation().await.unwrap(), Incarnation(1));
}

/// Nobody who saw the write that was lost asked anything before the store was started once more.
#[tokio::test]
async fn a_lost_write_is_noticed_after_another_start() {
    let server = TestServer::single();
    let options = server.options();
    let store = RedisStore::connect(options.clone()).await.unwrap();
    created(&store, "team", "a").await;
    store.list_actors(None, None, 1).await.unwrap();
    let before = server.copy();
    let lost = created(&store, "team", "lost").await;
    server.kill_and_start_on(&before);
    let other = RedisStore::connect(options).await.unwrap();
    created(&other, "team", "b").await;
    server.kill_and_start();
    let after = lost.header.resource_version;
    let seen = other.changes(Kind::Actor, after, 10, Duration::ZERO).await;
    assert!(
        matches!(&seen, Err(StoreError::Expired(e)) if e.why == Gone::Forgotten),
        "{seen:?}"
    );
    let read = store.get_actor(&lost.key).await;
    assert!(matches!(read, Err(StoreError::NotFound(_))));
    assert_eq!(store.incarnation().await.unwrap(), Incarnation(2));
    let seen = other.changes(Kind::Actor, after, 10, Duration::ZERO).await;
    assert!(
        matches!(&seen, Err(StoreError::Expired(e)) if e.why == Gone::Lost),
        "{seen:?}"
    );
}
