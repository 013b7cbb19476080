//! Watches: initial state, changes, selectors, bookmarks, ends.

use super::*;
use crate::store::conformance::leases::eventually;
use crate::store::conformance::{self, CAP};
use http_body_util::BodyExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;

/// An open watch: events one by one.
pub(super) struct Events {
    body: Body,
    rest: String,
}

impl Events {
    pub(super) async fn open(h: &Harness, uri: &str, accept: &str) -> Self {
        let request = Request::builder().uri(uri).header(header::ACCEPT, accept);
        let response = h.open(request.body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), StatusCode::OK);
        Self {
            body: response.into_body(),
            rest: String::new(),
        }
    }

    /// The next event; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((line, rest)) = self.rest.split_once('\n') {
                let event = serde_json::from_str(line).unwrap();
                self.rest = rest.to_owned();
                return Some(event);
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame())
                .await
                .unwrap()?;
            let bytes = frame.unwrap().into_data().unwrap();
            self.rest.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    }

    /// Type and name of the next event.
    async fn short(&mut self) -> String {
        let event = self.next().await.unwrap();
        format!(
            "{} {}",
            event["type"].as_str().unwrap(),
            event["object"]["metadata"]["name"].as_str().unwrap_or("-")
        )
    }
}

async fn current(h: &Harness, uri: &str) -> String {
    h.get(uri).await.ok()["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn changes_each_once_from_a_list() {
    let h = Harness::new().await;
    for (uri, make) in [(ACTORS, actor as fn(&str) -> Value), (POOLS, pool)] {
        h.make(uri, &make("old")).await;
        let version = current(&h, uri).await;
        let mut events = Events::open(
            &h,
            &format!("{uri}?watch=1&resourceVersion={version}"),
            "*/*",
        )
        .await;
        let made = h.make(uri, &make("a")).await;
        h.merge(
            &format!("{uri}/a"),
            &json!({"metadata": {"labels": {"x": "1"}}}),
        )
        .await
        .ok();
        h.make(&uri.replace("/ns/", "/other/"), &make("b")).await;
        h.delete(&format!("{uri}/old"), None).await.ok();
        let added = events.next().await.unwrap();
        assert_eq!(added["type"], "ADDED");
        assert_eq!(added["object"], made);
        assert_eq!(events.short().await, "MODIFIED a");
        loop {
            // An actor passes through its deletion's steps first.
            match events.short().await.as_str() {
                "DELETED old" => break,
                other => assert_eq!(other, "MODIFIED old"),
            }
        }
    }
}

#[tokio::test]
async fn state_first_where_no_version_is_named() {
    let h = Harness::new().await;
    for (uri, make) in [(ACTORS, actor as fn(&str) -> Value), (POOLS, pool)] {
        h.make(uri, &make("a")).await;
        h.make(uri, &make("b")).await;
        for query in ["", "&resourceVersion=0"] {
            let mut events = Events::open(&h, &format!("{uri}?watch=true{query}"), "*/*").await;
            assert_eq!(events.short().await, "ADDED a");
            assert_eq!(events.short().await, "ADDED b");
        }
        let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
        let mut events = Events::open(&h, &format!("{uri}?{query}"), "*/*").await;
        assert_eq!(events.short().await, "ADDED a");
        assert_eq!(events.short().await, "ADDED b");
        let mark = events.next().await.unwrap();
        assert_eq!(mark["type"], "BOOKMARK");
        assert_eq!(
            mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
            "true"
        );
        h.make(uri, &make("c")).await;
        assert_eq!(events.short().await, "ADDED c");
    }
    h.get(&format!("{POOLS}?watch=1&sendInitialEvents=true"))
        .await
        .fails(
            422,
            "Invalid",
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        );
    h.get(&format!(
        "{POOLS}?watch=1&resourceVersionMatch=Exact&resourceVersion=5"
    ))
    .await
    .fails(422, "Invalid", "forbidden for watch");
}

#[tokio::test]
async fn leaving_a_selector_is_a_deletion() {
    let h = Harness::new().await;
    for (uri, make) in [(ACTORS, actor as fn(&str) -> Value), (POOLS, pool)] {
        let version = current(&h, uri).await;
        let query = format!("{uri}?watch=1&resourceVersion={version}&labelSelector=in%3Dyes");
        let mut events = Events::open(&h, &query, "*/*").await;
        h.make(uri, &make("a")).await;
        let label = async |value: Value| {
            let patch = json!({"metadata": {"labels": {"in": value}}});
            h.merge(&format!("{uri}/a"), &patch).await.ok().clone()
        };
        label(json!("yes")).await;
        let left = label(json!("no")).await;
        label(json!("yes")).await;
        assert_eq!(events.short().await, "ADDED a");
        let deleted = events.next().await.unwrap();
        assert_eq!(deleted["type"], "DELETED");
        assert_eq!(version_of(&deleted["object"]), version_of(&left));
        assert_eq!(events.short().await, "ADDED a");
    }
}

fn version_of(object: &Value) -> u64 {
    super::version(object)
}

#[tokio::test]
async fn one_object_until_it_is_gone() {
    let h = Harness::new().await;
    h.make(POOLS, &pool("a")).await;
    h.make(POOLS, &pool("b")).await;
    let mut events = Events::open(
        &h,
        &format!("{POOLS}?watch=1&fieldSelector=metadata.name%3Da"),
        "*/*",
    )
    .await;
    h.delete(&format!("{POOLS}/b"), None).await.ok();
    h.delete(&format!("{POOLS}/a"), None).await.ok();
    assert_eq!(events.short().await, "ADDED a");
    assert_eq!(events.short().await, "DELETED a");
}

#[tokio::test]
async fn tables_name_their_columns_once() {
    let h = Harness::new().await;
    h.make(ACTORS, &actor("a")).await;
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let mut events = Events::open(&h, &format!("{ACTORS}?watch=1"), accept).await;
    let first = events.next().await.unwrap()["object"].clone();
    assert_eq!(first["kind"], "Table");
    assert_eq!(first["columnDefinitions"].as_array().unwrap().len(), 13);
    h.make(ACTORS, &actor("b")).await;
    let second = events.next().await.unwrap()["object"].clone();
    assert!(second["columnDefinitions"].is_null());
    assert_eq!(second["rows"][0]["cells"][0], "b");
}

#[tokio::test]
async fn ends_with_a_bookmark_at_its_time() {
    let h = Harness::new().await;
    h.make(POOLS, &pool("a")).await;
    let query = format!(
        "{POOLS}?watch=1&timeoutSeconds=1&allowWatchBookmarks=true&resourceVersion={}",
        current(&h, POOLS).await
    );
    let mut events = Events::open(&h, &query, "*/*").await;
    let mark = events.next().await.unwrap();
    assert_eq!(
        (&mark["type"], &mark["object"]["kind"]),
        (&json!("BOOKMARK"), &json!("WorkerPool"))
    );
    assert!(version_of(&mark["object"]) > 0);
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn ends_with_the_server() {
    let h = Harness::new().await;
    let mut events = Events::open(&h, &format!("{POOLS}?watch=1"), "*/*").await;
    h.shutdown.cancel();
    assert_eq!(events.next().await, None);
}

/// What a watcher knows, each event checked against it.
#[derive(Default)]
struct Mirror {
    objects: BTreeMap<String, Value>,
    last: u64,
    seen: usize,
}

impl Mirror {
    fn apply(&mut self, event: &Value) {
        let object = event["object"].clone();
        let version = version_of(&object);
        assert!(
            version > self.last,
            "{version} after {}: {event}",
            self.last
        );
        self.last = version;
        self.seen += 1;
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let before = match event["type"].as_str().unwrap() {
            "ADDED" | "MODIFIED" => self.objects.insert(name, object),
            "DELETED" => self.objects.remove(&name),
            other => panic!("{other}: {event}"),
        };
        assert_eq!(before.is_none(), event["type"] == "ADDED", "{event}");
    }
}

/// Watches until it has seen `end`, over one replica or the other, and begins anew at random.
async fn mirror(replicas: &[Harness], query: &str, seed: u64, last: u64, end: &str) -> Mirror {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut mirror = Mirror {
        last,
        ..Mirror::default()
    };
    while !mirror.objects.contains_key(end) {
        let h = &replicas[rng.random_range(0..replicas.len())];
        let uri = format!("{ACTORS}?watch=1&resourceVersion={}&{query}", mirror.last);
        let mut events = Events::open(h, &uri, "*/*").await;
        for _ in 0..rng.random_range(1..60) {
            mirror.apply(&events.next().await.unwrap());
            if mirror.objects.contains_key(end) {
                break;
            }
        }
    }
    mirror
}

/// Creates, labels and deletes actors of few names.
async fn churn(h: &Harness, seed: u64, writes: usize) {
    let mut rng = StdRng::seed_from_u64(seed);
    for _ in 0..writes {
        let name = format!("n{}", rng.random_range(0..12));
        let uri = format!("{ACTORS}/{name}");
        // Whether it is there is chance.
        match rng.random_range(0..4) {
            0 => drop(h.post(ACTORS, &actor(&name)).await),
            1 => drop(h.delete(&uri, None).await),
            _ => {
                let label = ["yes", "no"][rng.random_range(0..2)];
                let patch = json!({"metadata": {"labels": {"in": label, "n": rng.random::<u32>().to_string()}}});
                drop(h.merge(&uri, &patch).await);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_watchers_over_two_replicas_miss_nothing() {
    let first = Harness::new().await;
    let replicas = [first.replica().await, first];
    let selector = "labelSelector=in%3Dyes";
    let start = current(&replicas[0], ACTORS).await.parse().unwrap();
    let watchers = (0..10).map(|i| {
        let query = ["", selector][i % 2];
        mirror(&replicas, query, i as u64, start, "zz-end")
    });
    let writers = async {
        futures::future::join_all((0..4).map(|i| churn(&replicas[i % 2], 100 + i as u64, 60)))
            .await;
        let mut end = actor("zz-end");
        end["metadata"]["labels"] = json!({"in": "yes"});
        replicas[0].make(ACTORS, &end).await;
    };
    let (mirrors, ()) = tokio::join!(futures::future::join_all(watchers), writers);
    for (i, mirror) in mirrors.iter().enumerate() {
        let query = ["", selector][i % 2];
        let list = replicas[1].get(&format!("{ACTORS}?{query}")).await;
        let listed: Vec<_> = list.ok()["items"].as_array().unwrap().iter().collect();
        assert_eq!(mirror.objects.values().collect::<Vec<_>>(), listed);
        assert_eq!(mirror.seen, mirrors[i % 2].seen);
    }
    assert!(mirrors[0].seen > 60);
}

async fn bookmarked(every: Duration) -> Harness {
    let server = TestServer::shared();
    let options = server.options();
    Harness::on(server, options, every).await
}

#[tokio::test]
async fn a_bookmark_is_a_place_to_resume_from() {
    let h = bookmarked(Duration::from_millis(20)).await;
    let version = current(&h, ACTORS).await;
    let select = "labelSelector=in%3Dyes&allowWatchBookmarks=true";
    let uri = format!("{ACTORS}?watch=1&resourceVersion={version}&{select}");
    let mut events = Events::open(&h, &uri, "*/*").await;
    // Nothing of this is for the watch; the mark moves on all the same.
    let made = version_of(&h.make(ACTORS, &actor("a")).await);
    let mark = loop {
        let event = events.next().await.unwrap();
        assert_eq!(event["type"], "BOOKMARK");
        let mark = version_of(&event["object"]);
        if mark >= made {
            break mark;
        }
    };
    drop(events);
    h.trim_logs();
    let label = json!({"metadata": {"labels": {"in": "yes"}}});
    let labelled = h.merge(&format!("{ACTORS}/a"), &label).await.ok().clone();
    // Another replica has nothing in memory.
    let h = h.replica().await;
    h.get(&format!("{ACTORS}?watch=1&resourceVersion={version}"))
        .await
        .fails(410, "Expired", "too old");
    let uri = format!("{ACTORS}?watch=1&resourceVersion={mark}&labelSelector=in%3Dyes");
    let mut events = Events::open(&h, &uri, "*/*").await;
    let event = events.next().await.unwrap();
    assert_eq!(
        (&event["type"], &event["object"]),
        (&json!("ADDED"), &labelled)
    );
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_nobody_up() {
    let h = Harness::new().await;
    let made = h.make(POOLS, &pool("p")).await;
    let uri = format!("{POOLS}?watch=1&resourceVersion={}", version_of(&made));
    let mut late = Events::open(&h, &uri, "*/*").await;
    let mut good = Events::open(&h, &uri, "*/*").await;
    let writes = 100;
    for i in 0..writes {
        let patch = json!({"metadata": {"labels": {"i": i.to_string()}}});
        h.merge(&format!("{POOLS}/p"), &patch).await.ok();
        let event = good.next().await.unwrap();
        assert_eq!(event["object"]["metadata"]["labels"]["i"], i.to_string());
    }
    assert!(h.fanout("workerpools").events <= writes);
    for i in 0..writes {
        let event = late.next().await.unwrap();
        assert_eq!(event["object"]["metadata"]["labels"]["i"], i.to_string());
    }
    drop(late);
    eventually("only the good one is left", || async {
        (h.fanout("workerpools").watchers == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_large_state_is_streamed_as_of_its_beginning() {
    let h = Harness::new().await;
    let names: Vec<_> = (0..900).map(|i| format!("n{i:04}")).collect();
    let creates = names.iter().map(|name| {
        let record = conformance::actor("ns", name);
        h.store.create_actor(record, CAP)
    });
    for created in futures::future::join_all(creates).await {
        created.unwrap();
    }
    let query =
        "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut events = Events::open(&h, &format!("{ACTORS}?{query}"), "*/*").await;
    assert_eq!(events.short().await, "ADDED n0000");
    h.delete(&format!("{ACTORS}/n0800"), None).await.ok();
    h.make(ACTORS, &actor("n0850-new")).await;
    for name in &names[1..] {
        assert_eq!(events.short().await, format!("ADDED {name}"));
    }
    let mark = events.next().await.unwrap();
    assert_eq!(mark["type"], "BOOKMARK");
    loop {
        match events.short().await.as_str() {
            "DELETED n0800" => break,
            other => assert_eq!(other, "MODIFIED n0800"),
        }
    }
    assert_eq!(events.short().await, "ADDED n0850-new");

    let mut events = Events::open(&h, &format!("{ACTORS}?{query}"), "*/*").await;
    assert_eq!(events.short().await, "ADDED n0000");
    h.make(ACTORS, &actor("zz")).await;
    h.trim_logs();
    let last = loop {
        let event = events.next().await.unwrap();
        if event["type"] != "ADDED" {
            break event;
        }
    };
    assert_eq!(
        (&last["type"], &last["object"]["code"]),
        (&json!("ERROR"), &json!(410))
    );
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn lost_writes_end_watches_with_410() {
    let server = TestServer::single();
    let options = server.options();
    let h = Harness::on(server, options, BOOKMARK_EVERY).await;
    for (uri, make) in [(ACTORS, actor as fn(&str) -> Value), (POOLS, pool)] {
        let made = version_of(&h.make(uri, &make("a")).await);
        let watch = format!("{uri}?watch=1&resourceVersion={made}");
        let mut events = Events::open(&h, &watch, "*/*").await;
        h.make(uri, &make("b")).await;
        assert_eq!(events.short().await, "ADDED b");
        h.server.ask(&["FLUSHALL"]);
        let error = events.next().await.unwrap();
        assert_eq!(error["type"], "ERROR");
        assert_eq!(error["object"]["reason"], "Expired", "{error}");
        assert_eq!(events.next().await, None);
        h.get(&watch).await.fails(410, "Expired", "too old");
        assert!(current(&h, uri).await.parse::<u64>().unwrap() > made);
    }
}

#[tokio::test]
async fn a_store_that_says_nothing_closes_watches() {
    let server = TestServer::single();
    let options = server.options();
    let h = Harness::on(server, options, BOOKMARK_EVERY).await;
    let made = version_of(&h.make(ACTORS, &actor("a")).await);
    let uri = format!("{ACTORS}?watch=1&resourceVersion={made}");
    let mut events = Events::open(&h, &uri, "*/*").await;
    h.make(ACTORS, &actor("b")).await;
    assert_eq!(events.short().await, "ADDED b");
    let pause = PATIENCE.as_millis().to_string();
    h.server.ask(&["CLIENT", "PAUSE", &pause, "ALL"]);
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn a_kind_is_read_once_for_all_who_watch_it() {
    let h = Harness::new().await;
    let version = current(&h, ACTORS).await;
    let uri = format!("{ACTORS}?watch=1&resourceVersion={version}");
    let mut watches = vec![];
    for _ in 0..50 {
        watches.push(Events::open(&h, &uri, "*/*").await);
    }
    assert_eq!(h.fanout("actors").watchers, 50);
    h.make(ACTORS, &actor("a")).await;
    for events in &mut watches {
        assert_eq!(events.short().await, "ADDED a");
    }
    assert_eq!(h.fanout("actors").events, 1);
    assert_eq!(h.fanout("actors").lines, 1, "one encoding for all");
    let metadata = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    for _ in 0..10 {
        let mut other = Events::open(&h, &uri, metadata).await;
        assert_eq!(other.short().await, "ADDED a");
        watches.push(other);
    }
    assert_eq!(h.fanout("actors").lines, 2, "and one of another form");
    drop(watches);
    eventually("nobody watches", || async {
        (h.fanout("actors").watchers == 0).then_some(())
    })
    .await;
}

/// As a client that comes back with all its watches: what happened meanwhile is read from the store once, not by each.
#[tokio::test]
async fn watches_that_come_back_together_share_what_they_missed() {
    const WATCHES: usize = 40;
    let h = Harness::new().await;
    let version = current(&h, ACTORS).await;
    for i in 0..20 {
        h.make(ACTORS, &actor(&format!("a{i}"))).await;
    }
    let uri = format!("{ACTORS}?watch=1&resourceVersion={version}");
    let open = (0..WATCHES).map(|_| Events::open(&h, &uri, "*/*"));
    let mut watches = futures::future::join_all(open).await;
    for events in &mut watches {
        for i in 0..20 {
            assert_eq!(events.short().await, format!("ADDED a{i}"));
        }
    }
    let reads = h.fanout("actors").reads;
    assert!((1..10).contains(&reads), "{reads}");
}
