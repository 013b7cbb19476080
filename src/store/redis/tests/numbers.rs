//! Round trips and bytes.

use crate::api::names::{Epoch, PoolKey, TemplateKey};
use crate::api::record::{Phase, StepRecord, Work};
use crate::api::time::Timestamp;
use crate::store::conformance::leases::eventually;
use crate::store::conformance::*;
use crate::store::redis::DEFAULT_SHARDS;
use crate::store::testing::TestServer;
use crate::store::{Durability, Kind, ListRequest, RedisStore, Store};
use futures::StreamExt;
use std::time::Duration;

#[tokio::test]
async fn a_resume_is_three_round_trips() {
    let server = TestServer::shared();
    let store = server.store().await;
    let stored = created(&store, "team", "a").await;
    let w = worker("team", "p", "w", "n1");
    store.report_worker(&w).await.unwrap();
    let before = store.round_trips();
    let mut mine = owned(&store, waking(&stored.key, ME, LONG)).await;
    store.incarnation().await.unwrap();
    let request = claim(&PoolKey::new("team", "p"), &stored.key, mine.header.epoch.0);
    store.claim(&request).await.unwrap().unwrap();
    mine.header.phase = Phase::Running;
    store.commit(&mine, ME, Durability::Memory).await.unwrap();
    assert_eq!(store.round_trips() - before, 3);
}

#[tokio::test]
async fn many_watchers_cost_what_one_costs() {
    let server = TestServer::shared();
    let store = server.store().await;
    let at = store.list_actors(None, None, 1).await.unwrap().version;
    let cost = |watchers: usize| {
        let store = &store;
        async move {
            let before = store.round_trips();
            let wait = Duration::from_millis(500);
            let watches = (0..watchers).map(|_| store.changes(Kind::Actor, at, 10, wait));
            futures::future::join_all(watches).await;
            store.round_trips() - before
        }
    };
    cost(1).await;
    let (one, many) = (cost(1).await, cost(100).await);
    // A few looks at all shards; one for each watcher would be a hundred.
    let few = 10 * u64::from(DEFAULT_SHARDS);
    assert!(many < one + few, "{one} for one, {many} for a hundred");
}

#[tokio::test]
async fn lists_wait_for_each_other_and_nobody_for_lists() {
    let server = TestServer::shared();
    let store = server.store().await;
    let stored = created(&store, "team", "a").await;
    let others = store.client.turn_to_list(usize::MAX).await.unwrap();
    let list = store.list_actors(None, None, 500);
    let mut list = std::pin::pin!(list);
    let got = tokio::select! {
        biased;
        _ = &mut list => panic!("a list did not wait"),
        got = store.get_actor(&stored.key) => got.unwrap(),
    };
    assert_eq!(got.key, stored.key);
    drop(others);
    assert_eq!(list.await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn the_pages_of_a_list_read_the_log_once() {
    let server = TestServer::shared();
    let store = server.store().await;
    for i in 0..120 {
        created(&store, "ns", &format!("n{i:03}")).await;
    }
    let mut request = ListRequest {
        namespace: Some("ns"),
        name: None,
        after: None,
        limit: 4,
        at: None,
    };
    let mut page = store.actors_at(&request).await.unwrap();
    let changes = 400;
    let newer = (0..changes).map(|i| store.create_actor(actor("ns", &format!("n{i:03}-new")), CAP));
    for created in futures::future::join_all(newer).await {
        created.unwrap();
    }
    let (mut seen, mut pages) = (page.items.len(), 1);
    let before = store.tails.read();
    while let Some(after) = page.next.take() {
        request.at = Some(page.version);
        page = store
            .actors_at(&ListRequest {
                after: Some(&after),
                ..request
            })
            .await
            .unwrap();
        seen += page.items.len();
        pages += 1;
    }
    assert_eq!(seen, 120);
    assert!(pages >= 20, "{pages}");
    assert_eq!(store.tails.read() - before, changes);
}

async fn asleep(store: &RedisStore, i: usize) {
    let mut record = flat("team-a", &format!("agent-{i:08}"));
    record.spec.template = TemplateKey::new("team-a", "python-agent");
    let created = Timestamp(1_790_000_000_000 + 37 * i as u64);
    record.status.created = created;
    record.status.last_activity = created + Duration::from_secs(1000);
    record.status.last_transition = created + Duration::from_secs(2000);
    record.status.last_duration_micros = 123_456;
    let step = |work, tenths| StepRecord { work, tenths };
    record.status.last_steps = vec![
        step(Work::Checkpoint, 712),
        step(Work::Release, 8),
        step(Work::Publish, 514),
    ];
    record.status.durable = Some(snapshot(7));
    record.header.epoch = Epoch(7);
    record.header.operation = Epoch(7);
    store.create_actor(record, CAP).await.unwrap();
}

/// Bytes that the server uses, once it has given back what it frees in the background.
async fn used(server: &TestServer) -> u64 {
    eventually("nothing is left to free", || async {
        server.ask(&["MEMORY", "PURGE"]);
        let info = server.ask(&["INFO", "memory"]);
        let number = |name: &str| {
            let line = info.lines().find_map(|l| l.strip_prefix(name));
            line.unwrap().trim().parse::<u64>().unwrap()
        };
        (number("lazyfree_pending_objects:") == 0).then(|| number("used_memory:"))
    })
    .await
}

/// Server memory per sleeping actor with a flat id and a snapshot of its own, without the log.
async fn bytes_per_actor(actors: usize) -> u64 {
    let server = TestServer::single_with(&["--appendonly", "no"]);
    let store = server.store().await;
    asleep(&store, 0).await;
    let before = used(&server).await;
    let creates = (1..=actors).map(|i| asleep(&store, i));
    let creates = futures::stream::iter(creates).buffer_unordered(200);
    creates.collect::<Vec<()>>().await;
    for shard in 0..16 {
        server.ask(&["DEL", &store.client.keys.of(shard, "log")]);
    }
    (used(&server).await - before) / actors as u64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sleeping_actor_takes_at_most_300_bytes() {
    let actors = 100_000;
    let bytes = bytes_per_actor(actors).await;
    println!("{bytes} bytes of store memory per sleeping actor ({actors} actors)");
    assert!(bytes <= 300, "{bytes}");
}
