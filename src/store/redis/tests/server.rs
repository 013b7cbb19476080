//! Connections, durability, the log's bound.

use crate::api::names::ResourceVersion;
use crate::api::node::NodeUsage;
use crate::store::conformance::leases::eventually;
use crate::store::conformance::*;
use crate::store::redis::{DEFAULT_SHARDS, StoreTls};
use crate::store::testing::{TestServer, free_port};
use crate::store::{Kind, ListRequest, RedisStore, Store, StoreError, StoreOptions};
use crate::telemetry::chain;
use std::time::{Duration, Instant};
use tokio::sync::watch;

fn calls(server: &TestServer, command: &str) -> u64 {
    let info = server.ask(&["INFO", "commandstats"]);
    let line = info
        .lines()
        .find_map(|l| l.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.map_or(0, |l| l.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn durable_writes_wait_for_the_disk_together() {
    let server = TestServer::single();
    let store = server.store().await;
    let before = calls(&server, "waitaof");
    created(&store, "team", "a").await;
    assert_eq!(calls(&server, "waitaof"), before + 1);
    let names: Vec<_> = (0..100).map(|i| format!("b{i}")).collect();
    let creates = names.iter().map(|n| created(&store, "team", n));
    futures::future::join_all(creates).await;
    let waits = calls(&server, "waitaof") - before - 1;
    assert!((1..100).contains(&waits), "{waits}");
}

#[tokio::test]
async fn a_log_without_changes_is_hardly_asked_for() {
    let server = TestServer::single();
    let options = server.options();
    let store = RedisStore::connect(options.clone()).await.unwrap();
    let other = RedisStore::connect(options).await.unwrap();
    created(&store, "team", "a").await;
    let at = store.list_workers(None).await.unwrap().version;
    let wait = Duration::from_secs(5);
    let before = calls(&server, "evalsha");
    let nothing = store.changes(Kind::Actor, at, 10, wait).await.unwrap();
    assert!(nothing.items.is_empty());
    let looks = (calls(&server, "evalsha") - before) / u64::from(DEFAULT_SHARDS);
    // Every 40 ms would be 125 times. The first few are of the reader that begins.
    assert!(looks < 15, "{looks}");
    // What another process writes is seen without delay all the same.
    let (waits, wrote) = tokio::join!(
        store.changes(Kind::Actor, nothing.upto, 10, PATIENCE),
        created(&other, "team", "b"),
    );
    assert_eq!(waits.unwrap().items.len(), 1);
    assert_eq!(wrote.key.name, "b");
}

#[tokio::test]
async fn a_server_without_a_file_is_used_without_waiting() {
    let server = TestServer::single_with(&["--appendonly", "no"]);
    let store = server.store().await;
    created(&store, "team", "a").await;
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_sent_again() {
    let server = TestServer::single();
    let store = server.store().await;
    server.ask(&["SCRIPT", "FLUSH"]);
    let stored = created(&store, "team", "a").await;
    store.get_actor(&stored.key).await.unwrap();
}

#[tokio::test]
async fn a_unix_socket_works() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("valkey.sock");
    let path = path.to_str().unwrap();
    let _server = TestServer::single_with(&["--unixsocket", path]);
    let url = format!("redis+unix://{path}");
    let store = RedisStore::connect(StoreOptions::new(url)).await.unwrap();
    created(&store, "team", "a").await;
}

#[tokio::test]
async fn tls_with_a_private_root_works() {
    let names = ["localhost".to_owned()];
    let own = rcgen::generate_simple_self_signed(names).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let certificate = own.cert.pem();
    let cert = file("cert.pem", certificate.clone());
    let key = file("key.pem", own.signing_key.serialize_pem());
    let port = free_port().to_string();
    let server = TestServer::single_with(&[
        "--tls-port",
        &port,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &cert,
        "--tls-auth-clients",
        "no",
    ]);
    let mut options = StoreOptions::new(format!("rediss://localhost:{port}"));
    let refused = RedisStore::connect(options.clone()).await;
    assert!(matches!(refused.err(), Some(StoreError::Unavailable(_))));
    let trusted = |pem: String| {
        let ca = Some(pem.into_bytes());
        Some(StoreTls { ca, client: None })
    };
    let (tls, now) = watch::channel(None);
    options.tls = Some(now);
    let nothing_yet = RedisStore::connect(options.clone()).await.err();
    assert!(matches!(nothing_yet, Some(StoreError::Unavailable(_))));
    tls.send_replace(trusted(certificate));
    let store = RedisStore::connect(options).await.unwrap();
    created(&store, "team", "a").await;

    // Server and clients take another certificate: nobody believes the old one any more.
    let names = ["localhost".to_owned()];
    let another = rcgen::generate_simple_self_signed(names).unwrap();
    file("cert.pem", another.cert.pem());
    file("key.pem", another.signing_key.serialize_pem());
    let set = [
        ["tls-cert-file", &cert],
        ["tls-key-file", &key],
        ["tls-ca-cert-file", &cert],
    ];
    let set = [&["CONFIG", "SET"], set.as_flattened()].concat();
    assert_eq!(server.ask(&set), "ok");
    server.ask(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    tls.send_replace(trusted(another.cert.pem()));
    eventually("it is connected again", async || {
        let workers = store.list_workers(None).await;
        workers.is_ok().then_some(())
    })
    .await;
    created(&store, "team", "b").await;
}

#[tokio::test]
async fn another_number_of_shards_is_refused() {
    let server = TestServer::shared();
    let mut options = server.options();
    RedisStore::connect(options.clone()).await.unwrap();
    options.shards = 8;
    let e = RedisStore::connect(options).await.err().unwrap();
    assert_eq!(
        e.to_string(),
        "the installation's record in the store cannot be read: it has 16 shards, and 8 are configured; the number is fixed when an installation is made"
    );
}

#[tokio::test]
async fn nobody_there_is_unavailable_soon() {
    let start = Instant::now();
    let e = RedisStore::connect(StoreOptions::new("redis://127.0.0.1:1")).await;
    assert!(matches!(e.err(), Some(StoreError::Unavailable(_))));
    assert!(start.elapsed() < Duration::from_secs(8));
}

#[tokio::test]
async fn a_store_that_is_not_there_yet_is_used_when_it_is() {
    let server = TestServer::single();
    let options = server.options();
    server.kill();
    let refused = RedisStore::connect(options.clone()).await;
    assert!(matches!(refused.err(), Some(StoreError::Unavailable(_))));
    let store = RedisStore::connect_in_time(options).await.unwrap();
    let away = store.version().await.err().unwrap();
    assert!(matches!(away, StoreError::Unavailable(_)), "{away}");
    assert_eq!(
        chain(&away).lines().next().unwrap().split(": ").nth(1),
        Some("it cannot be reached")
    );
    server.start();
    eventually("it is used", || async { store.version().await.ok() }).await;
    created(&store, "team", "a").await;
}

#[tokio::test]
async fn a_full_server_takes_nothing_new_and_goes_on_otherwise() {
    for server in [TestServer::single(), TestServer::cluster()] {
        let store = server.store().await;
        let kept = created(&store, "team", "a").await;
        server.ask_all(&["CONFIG", "SET", "maxmemory", "1"]);
        let refused = store.create_actor(actor("team", "b"), CAP).await;
        let why = chain(&refused.err().unwrap());
        assert!(why.contains("its memory is full"), "{why}");
        let at = kept.header.resource_version;
        let mut spec = kept.spec.clone();
        spec.generation += 1;
        let refused = store.update_spec(&kept.key, at, &spec, &kept.meta).await;
        assert!(matches!(refused, Err(StoreError::Unavailable(_))));
        let page = store.list_actors(None, None, 10).await.unwrap();
        assert_eq!(page.items, std::slice::from_ref(&kept));
        store.workers_at(None).await.unwrap();
        let seen = store.changes(Kind::Actor, page.version, 10, Duration::ZERO);
        assert!(seen.await.unwrap().items.is_empty());
        store
            .renew_node("n1", "10.0.0.1", None, NodeUsage::default(), PATIENCE)
            .await
            .unwrap();
        spec.deleted = Some(crate::api::time::Timestamp::now());
        let marked = store.update_spec(&kept.key, at, &spec, &kept.meta).await;
        assert!(marked.unwrap().spec.deleted.is_some());
        server.ask_all(&["CONFIG", "SET", "maxmemory", "0"]);
        created(&store, "team", "b").await;
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up_in_time() {
    let server = TestServer::single();
    let store = server.store().await;
    let kept = created(&store, "team", "a").await;
    server.ask(&["CLIENT", "PAUSE", "60000", "ALL"]);
    let start = Instant::now();
    let (read, made) = tokio::join!(
        store.get_actor(&kept.key),
        store.create_actor(actor("team", "b"), CAP)
    );
    assert!(
        start.elapsed() < Duration::from_secs(15),
        "{:?}",
        start.elapsed()
    );
    for why in [read.err().unwrap(), made.err().unwrap()] {
        let why = chain(&why);
        assert!(why.contains("it does not answer in time"), "{why}");
    }
}

#[tokio::test]
async fn a_trimmed_log_says_so() {
    let server = TestServer::shared();
    let store = server.store().await;
    let start = store.list_workers(None).await.unwrap().version;
    for round in 0..12 {
        let reports = (0..1000).map(|i| {
            let mut w = worker("team", "p", "w", "n1");
            w.ip = format!("{round}.{i}");
            let store = &store;
            async move { store.report_worker(&w).await.unwrap() }
        });
        futures::future::join_all(reports).await;
    }
    let list = store.workers_at(Some(start)).await;
    assert!(matches!(list, Err(StoreError::Expired(v)) if v.version == start));
    let list = ListRequest {
        namespace: None,
        name: None,
        after: None,
        limit: 1,
        at: Some(start),
    };
    let list = store.actors_at(&list).await;
    assert!(matches!(list, Err(StoreError::Expired(v)) if v.version == start));
    for after in [ResourceVersion(0), start] {
        let seen = store.changes(Kind::Worker, after, 10, Duration::ZERO).await;
        assert!(matches!(seen, Err(StoreError::Expired(_))));
    }
    let page = store.list_workers(None).await.unwrap();
    let at = page.items[0].resource_version;
    let seen = store.changes(Kind::Worker, at, 10, Duration::ZERO).await;
    assert!(seen.unwrap().items.is_empty());
}

#[tokio::test]
async fn a_list_raises_every_shard_above_its_version() {
    let server = TestServer::shared();
    let options = server.options();
    let store = RedisStore::connect(options.clone()).await.unwrap();
    created(&store, "team", "a").await;
    for round in 1..4 {
        // A shard whose server's clock is ahead.
        let ahead = ResourceVersion(store.version().await.unwrap().0 + (round << 50)).tick();
        let clock = format!("{{{}:3}}:clock", options.prefix);
        server.ask(&["HSET", &clock, "last", &ahead.to_string()]);
        let version = match round {
            1 => store.list_actors(None, None, 10).await.unwrap().version,
            2 => store.workers_at(None).await.unwrap().version,
            _ => store.version().await.unwrap(),
        };
        assert_eq!(version.tick(), ahead);
        for i in 0..6 {
            // Another process, that has seen nothing of this.
            let other = RedisStore::connect(options.clone()).await.unwrap();
            let w = worker("team", &format!("p{round}-{i}"), "w", "n1");
            let written = other.report_worker(&w).await.unwrap();
            assert!(written.resource_version > version);
        }
    }
}
