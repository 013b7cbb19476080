//! Lists: selectors, pages, versions, tables.

use super::*;
use crate::store::conformance::{self, CAP};
use http_body_util::BodyExt;

async fn names(h: &Harness, uri: &str) -> Vec<String> {
    let answer = h.get(uri).await;
    let items = answer.ok()["items"].as_array().unwrap().clone();
    let name = |o: &Value| {
        format!(
            "{}/{}",
            o["metadata"]["namespace"].as_str().unwrap(),
            o["metadata"]["name"].as_str().unwrap()
        )
    };
    items.iter().map(name).collect()
}

#[tokio::test]
async fn selectors_and_namespaces() {
    let h = Harness::new().await;
    let empty = h.get(ACTORS).await;
    assert_eq!(empty.ok()["items"], json!([]));
    assert_eq!(empty.body["kind"], "ActorList");
    assert_ne!(empty.body["metadata"]["resourceVersion"], "0");
    for (uri, make) in [(ACTORS, actor as fn(&str) -> Value), (POOLS, pool)] {
        for (name, tier) in [("a", "gold"), ("b", "iron"), ("c", "gold")] {
            let mut object = make(name);
            object["metadata"]["labels"] = json!({"tier": tier});
            h.make(uri, &object).await;
        }
        h.make(&uri.replace("/ns/", "/other/"), &make("a")).await;
        assert_eq!(names(&h, uri).await, ["ns/a", "ns/b", "ns/c"]);
        let all = uri.replace("/namespaces/ns", "");
        assert_eq!(names(&h, &all).await, ["ns/a", "ns/b", "ns/c", "other/a"]);
        let with = |query: &str| format!("{all}?{query}");
        assert_eq!(
            names(&h, &with("labelSelector=tier%3Dgold")).await,
            ["ns/a", "ns/c"]
        );
        assert_eq!(names(&h, &with("labelSelector=%21tier")).await, ["other/a"]);
        assert_eq!(
            names(&h, &with("fieldSelector=metadata.name%3Da")).await,
            ["ns/a", "other/a"]
        );
        assert_eq!(
            names(&h, &with("fieldSelector=metadata.namespace%3Dother")).await,
            ["other/a"]
        );
        assert_eq!(
            names(&h, &format!("{uri}?fieldSelector=metadata.name%3Db")).await,
            ["ns/b"]
        );
        assert_eq!(
            names(&h, &format!("{uri}?fieldSelector=metadata.name%3Dz")).await,
            [""; 0]
        );
        h.get(&with("fieldSelector=spec.x%3D1")).await.fails(
            400,
            "BadRequest",
            "field label not supported: spec.x",
        );
        h.get(&with("labelSelector=a+b"))
            .await
            .fails(400, "BadRequest", "unable to parse");
    }
    h.post(&format!("{ACTORS}/b/resume?wait=5"), &json!({}))
        .await
        .ok();
    let running = format!("{ACTORS}?fieldSelector=status.phase%3DRunning");
    assert_eq!(names(&h, &running).await, ["ns/b"]);
}

#[tokio::test]
async fn pages() {
    let h = Harness::new().await;
    for (uri, make) in [(ACTORS, actor as fn(&str) -> Value), (POOLS, pool)] {
        for i in 0..5 {
            let mut object = make(&format!("x{i}"));
            object["metadata"]["labels"] = json!({"even": (i % 2 == 0).to_string()});
            h.make(uri, &object).await;
        }
        for (query, expected) in [
            ("", vec![2, 2, 1]),
            ("&labelSelector=even%3Dtrue", vec![2, 1]),
        ] {
            let (mut sizes, mut token, mut versions) = (vec![], String::new(), vec![]);
            loop {
                let page = h
                    .get(&format!("{uri}?limit=2{query}&continue={token}"))
                    .await
                    .ok()
                    .clone();
                sizes.push(page["items"].as_array().unwrap().len());
                versions.push(page["metadata"]["resourceVersion"].clone());
                let rest = page["metadata"].get("remainingItemCount");
                let seen: usize = sizes.iter().sum();
                let more = page["metadata"].get("continue").is_some();
                let counted = (query.is_empty() && more).then(|| json!(5 - seen));
                assert_eq!(rest, counted.as_ref());
                match page["metadata"]["continue"].as_str() {
                    Some(next) => token = next.to_owned(),
                    None => break,
                }
            }
            assert_eq!(sizes, expected, "{uri}{query}");
            versions.dedup();
            assert_eq!(versions.len(), 1);
        }
        h.get(&format!("{uri}?continue=zz"))
            .await
            .fails(400, "BadRequest", "continue");
    }
}

#[tokio::test]
async fn versions_that_cannot_be() {
    let h = Harness::new().await;
    h.make(POOLS, &pool("p")).await;
    let of = async |query: &str| h.get(&format!("{POOLS}?{query}")).await;
    for (bad, why) in [
        (
            "resourceVersionMatch=Exact",
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        (
            "resourceVersionMatch=Exact&resourceVersion=0",
            "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        ),
        (
            "resourceVersionMatch=Nearly&resourceVersion=5",
            "resourceVersionMatch: Unsupported value: \"Nearly\": supported values: \"Exact\", \"NotOlderThan\", \"\"",
        ),
        (
            "resourceVersionMatch=Exact&resourceVersion=5&continue=x",
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided",
        ),
        (
            "sendInitialEvents=true",
            "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list",
        ),
    ] {
        let answer = of(bad).await;
        let message = format!("ListOptions.meta.k8s.io \"\" is invalid: {why}");
        answer.fails(422, "Invalid", &message);
        let details = &answer.body["details"];
        assert_eq!(details["kind"], "ListOptions");
        let cause = &details["causes"][0];
        assert!(why.ends_with(cause["message"].as_str().unwrap()), "{cause}");
    }
    of("resourceVersion=x")
        .await
        .fails(400, "BadRequest", "invalid resource version");
    let future = of("resourceVersion=9000000000000000000").await;
    future.fails(504, "Timeout", "Too large resource version");
    assert_eq!(
        future.body["details"]["causes"][0]["reason"],
        "ResourceVersionTooLarge"
    );
    of("resourceVersion=1&resourceVersionMatch=NotOlderThan")
        .await
        .ok();
    of("resourceVersion=0").await.ok();
    let exact = of("resourceVersion=9000000000000000000&resourceVersionMatch=Exact").await;
    exact.fails(504, "Timeout", "Too large resource version");
    h.trim_logs();
    of("resourceVersion=1&resourceVersionMatch=Exact")
        .await
        .fails(410, "Expired", "too old");
}

/// Names of a page, its version and its token.
async fn page(h: &Harness, uri: &str) -> (Vec<String>, String, String) {
    let body = h.get(uri).await.ok().clone();
    let items = body["items"].as_array().unwrap();
    let name = |o: &Value| o["metadata"]["name"].as_str().unwrap().to_owned();
    let meta = &body["metadata"];
    (
        items.iter().map(name).collect(),
        meta["resourceVersion"].as_str().unwrap().to_owned(),
        meta["continue"].as_str().unwrap_or_default().to_owned(),
    )
}

#[tokio::test]
async fn a_list_stays_as_it_was_when_it_began() {
    let h = Harness::new().await;
    for (uri, make) in [(ACTORS, actor as fn(&str) -> Value), (POOLS, pool)] {
        for name in ["a", "b", "c", "d", "e"] {
            h.make(uri, &make(name)).await;
        }
        let (mut names, first, mut token) = page(&h, &format!("{uri}?limit=2")).await;
        let old = h.get(&format!("{uri}/e")).await.ok().clone();
        h.delete(&format!("{uri}/c"), None).await.ok();
        h.make(uri, &make("bb")).await;
        let patch = json!({"metadata": {"labels": {"x": "1"}}});
        h.merge(&format!("{uri}/e"), &patch).await.ok();
        h.delete(&format!("{uri}/d"), None).await.ok();
        h.make(uri, &make("d")).await;
        let mut last = Value::Null;
        while !token.is_empty() {
            let next = format!("{uri}?limit=2&continue={token}");
            last = h.get(&next).await.ok()["items"][0].clone();
            let (more, version, rest) = page(&h, &next).await;
            assert_eq!(version, first);
            names.extend(more);
            token = rest;
        }
        assert_eq!(names, ["a", "b", "c", "d", "e"]);
        assert_eq!(last, old);
        // The same as history, with and without a word for it.
        for query in ["resourceVersionMatch=Exact", "limit=100"] {
            let then = format!("{uri}?resourceVersion={first}&{query}");
            assert_eq!(page(&h, &then).await.0, ["a", "b", "c", "d", "e"]);
        }
        let now = format!("{uri}?resourceVersion={first}&resourceVersionMatch=NotOlderThan");
        assert_eq!(page(&h, &now).await.0, ["a", "b", "bb", "d", "e"]);
        let one = format!("{uri}?fieldSelector=metadata.name%3Dc&resourceVersion={first}&limit=1");
        assert_eq!(page(&h, &one).await.0, ["c"]);
    }
}

#[tokio::test]
async fn a_list_whose_version_is_gone_can_go_on_with_the_newest() {
    let h = Harness::new().await;
    for (uri, make) in [(ACTORS, actor as fn(&str) -> Value), (POOLS, pool)] {
        for name in ["a", "b", "d"] {
            h.make(uri, &make(name)).await;
        }
        let (_, version, token) = page(&h, &format!("{uri}?limit=2")).await;
        h.make(uri, &make("c")).await;
        h.trim_logs();
        let gone = h.get(&format!("{uri}?limit=2&continue={token}")).await;
        gone.fails(410, "Expired", "The provided continue parameter is too old");
        let fresh = gone.body["metadata"]["continue"].as_str().unwrap();
        let (names, newer, _) = page(&h, &format!("{uri}?limit=2&continue={fresh}")).await;
        assert_eq!(names, ["c", "d"]);
        assert!(newer.parse::<u64>().unwrap() > version.parse().unwrap());
        h.get(&format!("{uri}?watch=1&resourceVersion={version}"))
            .await
            .fails(410, "Expired", "too old");
        let other = uri.replace("/ns/", "/other/");
        h.get(&format!("{other}?continue={token}")).await.fails(
            400,
            "BadRequest",
            "continue key is not valid",
        );
    }
}

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

#[tokio::test]
async fn tables() {
    let h = Harness::new().await;
    h.make(ACTORS, &actor("a")).await;
    h.make(POOLS, &pool("p")).await;
    h.make(TEMPLATES, &template("t")).await;
    let heads = |table: &Value| {
        let all = table["columnDefinitions"].as_array().unwrap();
        let head = |c: &Value| {
            format!(
                "{}{}",
                c["name"].as_str().unwrap(),
                if c["priority"] == 0 { "" } else { "*" }
            )
        };
        all.iter().map(head).collect::<Vec<_>>().join(" ")
    };
    let table = h.get_as(ACTORS, TABLE).await.ok().clone();
    assert_eq!(
        heads(&table),
        "Name Template Phase Ready Worker Age Mode* Node* IP* Snapshot* Size* Last-Active* Epoch*"
    );
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    assert_eq!(
        cells[..5],
        [
            json!("a"),
            json!("counter"),
            json!("Suspended"),
            json!("True"),
            json!("<none>")
        ]
    );
    assert_eq!(
        cells[6..12],
        [
            json!("OnDemand"),
            json!("<none>"),
            json!("<none>"),
            json!("<none>"),
            json!("<none>"),
            json!("<none>")
        ]
    );
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    h.merge(&format!("{POOLS}/p/status"), &json!({"status": {"replicas": 2, "free": 1, "conditions": [
        {"type": "Ready", "status": "True", "reason": "AllReady", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}})).await.ok();
    let table = h.get_as(&format!("{POOLS}/p"), TABLE).await.ok().clone();
    assert_eq!(heads(&table), "Name Desired Replicas Free Ready Age");
    assert_eq!(
        table["rows"][0]["cells"].as_array().unwrap()[..5],
        [json!("p"), json!(2), json!(2), json!(1), json!("True")]
    );
    let table = h
        .get_as(&format!("{TEMPLATES}?includeObject=None"), TABLE)
        .await
        .ok()
        .clone();
    assert_eq!(heads(&table), "Name Phase Ready Actors Awake Age");
    assert!(table["rows"][0]["object"].is_null());
    let table = h
        .get_as(&format!("{TEMPLATES}?includeObject=Object"), TABLE)
        .await
        .ok()
        .clone();
    assert_eq!(table["rows"][0]["object"]["kind"], "ActorTemplate");
    assert_eq!(
        heads(h.get_as(WORKERS, TABLE).await.ok()),
        "Name Pool Phase Actor Node Age IP* Class*"
    );
}

#[tokio::test]
async fn metadata_alone_and_what_is_not_acceptable() {
    let h = Harness::new().await;
    h.make(ACTORS, &actor("a")).await;
    let garbage_collector = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
    let list = h.get_as(ACTORS, garbage_collector).await.ok().clone();
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(list["items"][0]["kind"], "PartialObjectMetadata");
    assert!(list["items"][0].get("spec").is_none());
    h.get_as(ACTORS, "text/html")
        .await
        .fails(406, "NotAcceptable", "application/json");
}

#[tokio::test]
async fn a_list_has_what_get_shows() {
    let h = Harness::new().await;
    for (uri, make) in [(ACTORS, actor as fn(&str) -> Value), (POOLS, pool)] {
        let mut rich = make("rich");
        rich["metadata"]["labels"] = json!({"tier": "gold"});
        rich["metadata"]["annotations"] = json!({"note": "a \"b\" \n"});
        rich["metadata"]["finalizers"] = json!(["example.com/hold"]);
        for object in [rich, make("bare")] {
            h.make(uri, &object).await;
        }
        let mut shown = vec![];
        for name in ["bare", "rich"] {
            shown.push(h.get(&format!("{uri}/{name}")).await.ok().clone());
        }
        let managed = shown[1].pointer("/metadata/managedFields/0/manager");
        assert!(managed.is_some(), "{}", shown[1]);
        // As it passes through, and looked into by a selector.
        for query in ["limit=500", "", "labelSelector=tier%21%3Dnone"] {
            let list = h.get(&format!("{uri}?{query}")).await;
            assert_eq!(list.ok()["items"], json!(shown), "{query}");
        }
        let partial = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        let list = h.get_as(uri, partial).await.ok().clone();
        assert_eq!(list["items"][1]["metadata"], shown[1]["metadata"]);
        let table = "application/json;as=Table;g=meta.k8s.io;v=v1";
        let whole = format!("{uri}?includeObject=Object&limit=1");
        let table = h.get_as(&whole, table).await.ok().clone();
        assert_eq!(table["rows"][0]["object"], shown[0]);
        assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    }
}

#[tokio::test]
async fn workers_are_only_read() {
    let h = Harness::new().await;
    use crate::api::names::{PoolKey, WorkerKey};
    use crate::api::record::{WorkerPhase, WorkerRecord};
    let worker = WorkerRecord {
        key: WorkerKey::new("ns", "w-0"),
        pool: PoolKey::new("ns", "p"),
        uid: "u".into(),
        node: "node-1".into(),
        phase: WorkerPhase::Free,
        ..WorkerRecord::default()
    };
    h.store.report_worker(&worker).await.unwrap();
    let list = h.get(WORKERS).await.ok().clone();
    assert_eq!(list["items"][0]["status"]["node"], "node-1");
    h.get(&format!("{WORKERS}/w-0")).await.ok();
    h.get(&format!("{WORKERS}/w-1")).await.fails(
        404,
        "NotFound",
        "workers.runtime.ate.dev \"w-1\" not found",
    );
    assert_eq!(
        names(&h, &format!("{WORKERS}?fieldSelector=status.pool%3Dp")).await,
        ["ns/w-0"]
    );
    h.post(WORKERS, &json!({}))
        .await
        .fails(405, "MethodNotAllowed", "");
    h.delete(&format!("{WORKERS}/w-0"), None)
        .await
        .fails(405, "MethodNotAllowed", "");
}

#[tokio::test]
async fn namespaces_are_those_in_use() {
    let h = Harness::new().await;
    h.make(ACTORS, &actor("a")).await;
    h.make(&POOLS.replace("/ns/", "/pools/"), &pool("p")).await;
    let list = h.get("/api/v1/namespaces").await.ok().clone();
    let names: Vec<_> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n["metadata"]["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["default", "ns", "pools"]);
    assert_eq!(
        h.get("/api/v1/namespaces/any").await.ok()["status"]["phase"],
        "Active"
    );
    h.post("/api/v1/namespaces", &json!({}))
        .await
        .fails(405, "MethodNotAllowed", "");
}

/// Makes many actors, past the API.
pub(super) async fn many(h: &Harness, count: usize) -> Vec<String> {
    let names: Vec<_> = (0..count).map(|i| format!("n{i:05}")).collect();
    let creates = names
        .iter()
        .map(|name| h.store.create_actor(conformance::actor("ns", name), CAP));
    for created in futures::future::join_all(creates).await {
        created.unwrap();
    }
    names
}

#[tokio::test]
async fn a_list_without_a_limit_is_sent_while_it_is_read() {
    let h = Harness::new().await;
    let names = many(&h, 1_800).await;
    let expected: Vec<_> = names.iter().map(|n| format!("ns/{n}")).collect();
    let all = h.get(ACTORS).await;
    assert_eq!(all.ok()["kind"], "ActorList");
    assert_eq!(all.body["apiVersion"], "runtime.ate.dev/v1alpha1");
    let named = |answer: &Answer| {
        let items = answer.body["items"].as_array().unwrap().iter();
        let name = |o: &Value| format!("ns/{}", o["metadata"]["name"].as_str().unwrap());
        items.map(name).collect::<Vec<_>>()
    };
    assert_eq!(named(&all), expected);
    let version = all.body["metadata"]["resourceVersion"].as_str().unwrap();
    assert!(all.body["metadata"].get("continue").is_none());
    let exact = format!("{ACTORS}?resourceVersion={version}&resourceVersionMatch=Exact");
    assert_eq!(named(&h.get(&exact).await), expected);
    let few = format!("{ACTORS}?fieldSelector=metadata.name!%3Dn00000");
    assert_eq!(named(&h.get(&few).await), expected[1..]);
    let none = h.get(&format!("{ACTORS}?labelSelector=no")).await;
    assert_eq!(none.ok()["items"], json!([]));
    let table = h
        .get_as(ACTORS, "application/json;as=Table;g=meta.k8s.io;v=v1")
        .await;
    assert_eq!(table.ok()["rows"].as_array().unwrap().len(), 1_800);
    assert!(table.body["columnDefinitions"].as_array().unwrap().len() > 2);
    let yaml = h.get_as(ACTORS, "application/yaml").await;
    assert_eq!(yaml.headers[header::CONTENT_TYPE], "application/yaml");
    let parsed: Value = serde_yaml_ng::from_str(&yaml.text).unwrap();
    assert_eq!(parsed["items"].as_array().unwrap().len(), 1_800);

    // Its end is read only once the beginning was taken; what is gone by then breaks it off.
    let request = Request::builder().uri(ACTORS).body(Body::empty()).unwrap();
    let mut body = h.open(request).await.into_body();
    body.frame().await.unwrap().unwrap();
    h.delete(&format!("{ACTORS}/n01799"), None).await.ok();
    h.trim_logs();
    let broken = loop {
        match body.frame().await {
            Some(Ok(_)) => {}
            other => break other,
        }
    };
    let broken = broken.expect("half a list must not look whole");
    let said = broken.unwrap_err().to_string();
    assert!(said.contains("to its end"), "{said}");
}

#[tokio::test]
async fn a_limit_has_a_limit() {
    let h = Harness::new().await;
    many(&h, 5_001).await;
    let page = h.get(&format!("{ACTORS}?limit=100000")).await;
    assert_eq!(page.ok()["items"].as_array().unwrap().len(), 5_000);
    assert_eq!(page.body["metadata"]["remainingItemCount"], 1);
}
