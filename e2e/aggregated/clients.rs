//! Informers, dynamic clients and pagers of client-go, and kube-rs's watcher, all through kube-apiserver.

use super::direct::Direct;
use super::goclient::{Go, briefly};
use super::harness::{
    Cluster, Namespace, REPLICAS, actor, alone, eventually, shared, shared_first,
};
use futures::TryStreamExt;
use http::Method;
use kube::core::{DynamicObject, GroupVersionKind};
use kube::runtime::watcher::{self, Event};
use serde_json::{Value, json};
use std::panic::AssertUnwindSafe;
use std::pin::pin;

/// Writes actors, by a replica's own address.
struct Writer {
    direct: Direct,
    url: String,
}

impl Writer {
    fn new(c: &Cluster, ns: &Namespace) -> Self {
        Self {
            direct: Direct::proxy(c).by_admin(),
            url: format!("{}{}", c.replica(0), ns.actors()),
        }
    }

    #[track_caller]
    fn create(&self, name: &str) -> Value {
        let made = self
            .direct
            .send(Method::POST, &self.url, "application/json", actor(name));
        assert_eq!(made.code, 201, "{}", made.text);
        made.body
    }

    /// Labels an actor.
    #[track_caller]
    fn label(&self, name: &str, value: &str) -> Value {
        let patch = json!({"metadata": {"labels": {"n": value}}}).to_string();
        let url = format!("{}/{name}", self.url);
        let kind = "application/merge-patch+json";
        let made = self.direct.send(Method::PATCH, &url, kind, patch);
        assert_eq!(made.code, 200, "{}", made.text);
        made.body
    }

    #[track_caller]
    fn delete(&self, name: &str) {
        let url = format!("{}/{name}", self.url);
        let gone = self
            .direct
            .send(Method::DELETE, &url, "application/json", "");
        assert_eq!(gone.code, 200, "{}", gone.text);
    }

    #[track_caller]
    fn list(&self) -> Value {
        let list = self.direct.get(&self.url);
        assert_eq!(list.code, 200, "{}", list.text);
        list.body
    }
}

fn version(object: &Value) -> u64 {
    let text = object["metadata"]["resourceVersion"].as_str();
    text.unwrap().parse().unwrap()
}

/// An informer has what a list has, at first and whatever is written then.
#[track_caller]
fn follows(go: &mut Go, writer: &Writer) {
    assert_eq!(go.store(""), briefly(&writer.list()));
    writer.create("later");
    writer.label("a1", "x");
    writer.delete("a2");
    for (name, event) in [("later", "add"), ("a1", "update")] {
        assert_eq!(go.event(name)["event"], event);
    }
    while go.event("a2")["event"] != "delete" {}
    assert_eq!(go.store(""), briefly(&writer.list()));
}

fn filled(c: &Cluster, ns: &Namespace) -> Writer {
    let writer = Writer::new(c, ns);
    (0..4).for_each(|n| drop(writer.create(&format!("a{n}"))));
    writer
}

/// What an informer asked for until it had its objects.
fn asked(go: &Go) -> Vec<(bool, bool, u64)> {
    let requests = go.requests().into_iter();
    let asked = requests.map(|r| {
        let query = &r["query"];
        let (watch, initial) = (query.get("watch"), query.get("sendInitialEvents"));
        (
            watch.is_some(),
            initial.is_some(),
            r["code"].as_u64().unwrap(),
        )
    });
    asked.collect()
}

#[test]
fn check_09_an_informer_syncs_by_a_watch_list() {
    let c = shared();
    let ns = c.0.namespace("watchlist");
    let writer = filled(&c, &ns);
    let mut go = Go::inform(&c, &ns, &[], true);
    follows(&mut go, &writer);
    assert_eq!(asked(&go), [(true, true, 200)], "{:?}", go.requests());
}

#[test]
fn check_10_an_informer_syncs_by_list_and_watch() {
    let c = shared();
    let ns = c.0.namespace("listwatch");
    let writer = filled(&c, &ns);
    let mut go = Go::inform(&c, &ns, &[], false);
    follows(&mut go, &writer);
    let expected = [(false, false, 200), (true, false, 200)];
    assert_eq!(asked(&go), expected, "{:?}", go.requests());
    let mut other = Go::inform(&c, &ns, &[], true);
    assert_eq!(go.store(""), other.store(""));
}

/// As the garbage collector asks: for metadata only, in protobuf if possible.
#[test]
fn metadata_informers_sync_either_way() {
    let c = shared();
    for watch_list in [false, true] {
        let ns = c.0.namespace("metadata");
        let writer = filled(&c, &ns);
        let mut go = Go::inform(&c, &ns, &["-metadata"], watch_list);
        follows(&mut go, &writer);
        for request in go.requests() {
            let accept = request["accept"].as_str().unwrap();
            assert!(
                accept.starts_with("application/vnd.kubernetes.protobuf;as=PartialObjectMetadata"),
                "{request}"
            );
            assert_eq!(request["type"], "application/json", "{request}");
        }
        assert_eq!(go.requests().len(), if watch_list { 1 } else { 2 });
    }
}

/// Cuts every log to nothing, as many writes would, and the replicas' memory of it too.
fn forget_changes(c: &Cluster) {
    for clock in c.ask_store(&["KEYS", "{ate:*}:clock"]).lines() {
        let last = c.ask_store(&["HGET", clock, "last"]);
        c.ask_store(&["XTRIM", &clock.replace("clock", "log"), "MAXLEN", "0"]);
        c.ask_store(&["HSET", clock, "trimmed", last.trim()]);
    }
    for n in 0..REPLICAS {
        c.kill_replica(n);
        c.start_replica(n);
    }
    let available = ["wait", "--for=condition=Available", "--timeout=1s"];
    let available = [&available[..], &["apiservice/v1alpha1.runtime.ate.dev"]].concat();
    eventually("the API is back", || {
        c.try_kubectl(&available).ok()?;
        c.try_kubectl(&["get", "actors"]).ok()
    });
}

#[test]
fn check_13_who_was_away_too_long_lists_again() {
    let c = alone();
    let ns = c.0.namespace("trimmed");
    let writer = filled(&c, &ns);
    let old = version(&writer.list());
    let mut informers = [false, true].map(|by| Go::inform(&c, &ns, &[], by));
    writer.label("a0", "seen");
    for go in &mut informers {
        assert_eq!(go.event("a0")["event"], "update");
        go.store("cut");
    }
    writer.label("a1", "missed");
    writer.create("missed");
    writer.delete("a2");
    forget_changes(&c);
    for go in &mut informers {
        go.store("join");
        go.until("it is told that its version is gone", |said| {
            (said["error"]["code"] == 410 && said["error"]["reason"] == "Expired").then_some(())
        });
        eventually("the informer is right again", || {
            (go.store("") == briefly(&writer.list())).then_some(())
        });
        writer.label("a3", &rand::random::<u32>().to_string());
        assert_eq!(go.event("a3")["event"], "update");
        assert_eq!(go.store(""), briefly(&writer.list()));
    }
    let mut go = Go::start(&c, &ns, &["do"]);
    let old = old.to_string();
    for list in [
        json!({"resourceVersion": old, "resourceVersionMatch": "Exact"}),
        json!({"resourceVersion": old, "limit": 2}),
    ] {
        let error = go.order(json!({"verb": "list", "list": list})).unwrap_err();
        assert_eq!(
            (&error["code"], &error["reason"]),
            (&json!(410), &json!("Expired")),
            "{error}"
        );
    }
    let list = json!({"resourceVersion": old});
    let error = go
        .order(json!({"verb": "watch", "list": list}))
        .unwrap_err();
    assert_eq!(
        (&error["code"], &error["reason"]),
        (&json!(410), &json!("Expired")),
        "{error}"
    );
}

/// Follows a paged list to its end; `between` runs after each page. Returns the objects and their version.
#[track_caller]
fn pages(go: &mut Go, mut between: impl FnMut(usize)) -> (Vec<Value>, Value) {
    let (mut items, mut version) = (vec![], Value::Null);
    loop {
        let said = go.next();
        let page = &said["page"];
        if said["end"] == true {
            assert_eq!(said["paged"], true);
            return (items, version);
        }
        let rv = page["rv"].clone();
        assert!(version.is_null() || version == rv, "{said} after {version}");
        let new = page["items"].as_array().unwrap_or_else(|| panic!("{said}"));
        assert!((1..=2).contains(&new.len()), "{said}");
        items.extend(new.iter().cloned());
        version = rv;
        between(items.len());
        go.tell("next");
    }
}

#[test]
fn check_26_pages_are_of_one_moment() {
    const OBJECTS: usize = 13;
    let c = shared();
    let ns = c.0.namespace("pages");
    let writer = Writer::new(&c, &ns);
    let name = |n: usize| format!("p{:02}", n % OBJECTS * 2);
    (0..OBJECTS).for_each(|n| drop(writer.create(&name(n))));
    let before = writer.list();
    let mut go = Go::start(&c, &ns, &["page", "-limit", "2"]);
    let (items, at) = pages(&mut go, |shown| {
        // Around the next page: one that is there changes, one goes, two come.
        writer.label(&name(shown), "changed");
        writer.delete(&name(shown + 1));
        writer.create(&name(shown + 1));
        writer.create(&format!("p{:02}", shown * 2 + 1));
    });
    assert_eq!(Value::from(items), briefly(&before));
    assert_ne!(briefly(&writer.list()), briefly(&before));
    let counted: Vec<_> = go
        .said
        .iter()
        .filter_map(|s| s["page"]["remaining"].as_u64())
        .collect();
    assert_eq!(counted, [11, 9, 7, 5, 3, 1]);

    // The same while somebody writes all the time; then the list of that very version is asked for at once.
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            for n in 0.. {
                writer.label(&name(n), &n.to_string());
                writer.delete(&name(n + 5));
                writer.create(&name(n + 5));
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
            }
        });
        let reader = Direct::proxy(&c).by_admin();
        let paged = std::panic::catch_unwind(AssertUnwindSafe(|| {
            for _ in 0..3 {
                let mut go = Go::start(&c, &ns, &["page", "-limit", "2"]);
                let (items, at) = pages(&mut go, |_| ());
                let exact = format!(
                    "resourceVersion={}&resourceVersionMatch=Exact",
                    at.as_str().unwrap()
                );
                let list = reader.get(&format!("{}?{exact}", writer.url));
                assert_eq!(list.code, 200, "{}", list.text);
                assert_eq!(Value::from(items), briefly(&list.body));
            }
        }));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        paged.unwrap();
    });
    assert!(version(&writer.list()) > at.as_str().unwrap().parse().unwrap());
}

#[test]
fn check_27_versions_that_cannot_be_are_refused() {
    let c = shared_first();
    let ns = c.0.namespace("versions");
    let writer = filled(&c, &ns);
    let now = version(&writer.list());
    let mut go = Go::start(&c, &ns, &["do"]);
    let mut refused = |verb: &str, list: Value| {
        let order = json!({"verb": verb, "list": list});
        go.order(order).unwrap_err()
    };
    for (verb, list) in [
        ("list", json!({"resourceVersionMatch": "Exact"})),
        (
            "list",
            json!({"resourceVersion": "1", "resourceVersionMatch": "Newest"}),
        ),
        (
            "list",
            json!({"resourceVersion": "0", "resourceVersionMatch": "Exact"}),
        ),
        (
            "list",
            json!({"resourceVersion": "1", "resourceVersionMatch": "Exact", "continue": "x"}),
        ),
        ("list", json!({"sendInitialEvents": true})),
        (
            "watch",
            json!({"resourceVersion": "1", "resourceVersionMatch": "Exact"}),
        ),
        (
            "watch",
            json!({"resourceVersion": "1", "resourceVersionMatch": "NotOlderThan"}),
        ),
        ("watch", json!({"sendInitialEvents": true})),
    ] {
        let error = refused(verb, list.clone());
        assert_eq!(
            (&error["code"], &error["reason"]),
            (&json!(422), &json!("Invalid")),
            "{verb} {list}: {error}"
        );
        assert!(!error["details"]["causes"][0]["field"].is_null(), "{error}");
    }
    // An hour ahead.
    let future = (now + (3_600_000 << 22)).to_string();
    for list in [
        json!({"resourceVersion": future}),
        json!({"resourceVersion": future, "resourceVersionMatch": "NotOlderThan"}),
        json!({"resourceVersion": future, "resourceVersionMatch": "Exact"}),
        json!({"resourceVersion": future, "limit": 2}),
    ] {
        let error = refused("list", list.clone());
        assert_eq!(
            (&error["code"], &error["reason"]),
            (&json!(504), &json!("Timeout")),
            "{list}: {error}"
        );
        let cause = &error["details"]["causes"][0]["reason"];
        assert_eq!(cause, "ResourceVersionTooLarge", "{error}");
    }
}

#[test]
fn the_dynamic_client_writes_and_reads() {
    let c = shared();
    let ns = c.0.namespace("dynamic");
    let mut go = Go::start(&c, &ns, &["do"]);
    let object: Value = serde_json::from_str(&actor("a")).unwrap();
    let made = go
        .order(json!({"verb": "create", "object": object}))
        .unwrap();
    assert_eq!(made["status"]["phase"], "Suspended");
    let again = go.order(json!({"verb": "create", "object": object}));
    assert_eq!(again.unwrap_err()["reason"], "AlreadyExists");
    let read = go.order(json!({"verb": "get", "name": "a"})).unwrap();
    assert_eq!(read, made);

    let mut changed = read.clone();
    changed["metadata"]["labels"] = json!({"x": "1"});
    let written = go
        .order(json!({"verb": "update", "object": changed}))
        .unwrap();
    assert_eq!(written["metadata"]["labels"]["x"], "1");
    let stale = go.order(json!({"verb": "update", "object": changed}));
    assert_eq!(stale.unwrap_err()["reason"], "Conflict");
    let mut patch = |kind: &str, patch: Value| {
        let order = json!({"verb": "patch", "name": "a", "type": kind, "patch": patch});
        go.order(order)
    };
    let merge = json!({"spec": {"operatingMode": "Suspended"}});
    let merged = patch("application/merge-patch+json", merge).unwrap();
    assert_eq!(merged["metadata"]["generation"], 2);
    let add = json!([{"op": "add", "path": "/metadata/annotations", "value": {"y": "2"}}]);
    let added = patch("application/json-patch+json", add).unwrap();
    assert_eq!(added["metadata"]["annotations"]["y"], "2");
    let strategic = patch("application/strategic-merge-patch+json", json!({}));
    assert_eq!(strategic.unwrap_err()["code"], 415);

    let other = json!({"preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}});
    let kept = go.order(json!({"verb": "delete", "name": "a", "options": other}));
    assert_eq!(kept.unwrap_err()["reason"], "Conflict");
    go.order(json!({"verb": "delete", "name": "a"})).unwrap();
    let gone = go.order(json!({"verb": "get", "name": "a"})).unwrap_err();
    assert_eq!(
        (&gone["code"], &gone["details"]["name"]),
        (&json!(404), &json!("a"))
    );
    for name in ["b", "c"] {
        let object: Value = serde_json::from_str(&actor(name)).unwrap();
        go.order(json!({"verb": "create", "object": object}))
            .unwrap();
    }
    let only = json!({"fieldSelector": "metadata.name=b"});
    let all = json!({"verb": "deletecollection", "list": only});
    go.order(all).unwrap();
    eventually("only the other is left", || {
        let left = go.order(json!({"verb": "list", "list": {}})).unwrap();
        let left = left["items"].as_array().unwrap();
        (left.len() == 1 && left[0]["name"] == "c").then_some(())
    });
}

#[test]
fn the_dynamic_client_applies() {
    let c = shared();
    let ns = c.0.namespace("applies");
    let mut go = Go::start(&c, &ns, &["do"]);
    let mut apply = |manager: &str, force: bool, labels: Value, mode: Option<&str>| {
        let mut object: Value = serde_json::from_str(&actor("a")).unwrap();
        object["metadata"]["labels"] = labels;
        if let Some(mode) = mode {
            object["spec"]["operatingMode"] = mode.into();
        }
        let options = json!({"fieldManager": manager, "force": force});
        go.order(json!({"verb": "apply", "name": "a", "object": object, "options": options}))
    };
    let labels = json!({"x": "1", "y": "1"});
    let made = apply("one", false, labels.clone(), Some("Suspended")).unwrap();
    assert_eq!(made["metadata"]["managedFields"][0]["manager"], "one");
    let same = apply("one", false, labels, Some("Suspended")).unwrap();
    assert_eq!(version(&same), version(&made));
    let conflict = apply("two", false, json!({}), Some("OnDemand")).unwrap_err();
    assert_eq!(conflict["code"], 409, "{conflict}");
    let cause = &conflict["details"]["causes"][0];
    assert_eq!(cause["reason"], "FieldManagerConflict", "{conflict}");
    assert_eq!(cause["field"], ".spec.operatingMode", "{conflict}");
    let won = apply("two", true, json!({}), Some("OnDemand")).unwrap();
    assert_eq!(won["spec"]["operatingMode"], "OnDemand");
    // What its manager does not name any more goes; what is another's stays.
    let less = apply("one", false, json!({"y": "1"}), None).unwrap();
    assert_eq!(less["metadata"]["labels"], json!({"y": "1"}));
    assert_eq!(less["spec"]["operatingMode"], "OnDemand");
}

/// kube-rs, which finds the kind by discovery.
#[test]
fn kube_rs_watches_either_way() {
    let c = shared();
    let ns = c.0.namespace("kube-rs");
    let writer = filled(&c, &ns);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let path = c.path("kubeconfig");
        let client = substrate::kube::client(Some(&path)).await.unwrap();
        let kind = GroupVersionKind::gvk("runtime.ate.dev", "v1alpha1", "Actor");
        let (resource, can) = kube::discovery::pinned_kind(&client, &kind).await.unwrap();
        assert!(can.supports_operation(kube::discovery::verbs::WATCH));
        let api = kube::Api::<DynamicObject>::namespaced_with(client, &ns.1, &resource);
        for config in [
            watcher::Config::default().page_size(2),
            watcher::Config::default().streaming_lists(),
        ] {
            let round = rand::random::<u32>().to_string();
            let mut stream = pin!(watcher::watcher(api.clone(), config));
            let mut next = async || {
                let next = tokio::time::timeout(super::harness::PATIENCE, stream.try_next());
                next.await.unwrap().unwrap().unwrap()
            };
            assert!(matches!(next().await, Event::Init));
            let mut initial = vec![];
            loop {
                match next().await {
                    Event::InitApply(object) => initial.push(object.metadata.name.unwrap()),
                    Event::InitDone => break,
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(initial, ["a0", "a1", "a2", "a3"]);
            tokio::task::block_in_place(|| {
                writer.label("a1", &round);
                writer.create("b");
                writer.delete("b");
            });
            let Event::Apply(a1) = next().await else {
                panic!()
            };
            assert_eq!(a1.metadata.labels.unwrap()["n"], round);
            loop {
                match next().await {
                    Event::Apply(object) => assert_eq!(object.metadata.name.unwrap(), "b"),
                    Event::Delete(object) => break assert_eq!(object.metadata.name.unwrap(), "b"),
                    other => panic!("{other:?}"),
                }
            }
        }
    });
}
