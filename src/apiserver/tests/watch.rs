//! Watches: initial state, changes, selectors, bookmarks, ends.

use super::*;
use http_body_util::BodyExt;

/// An open watch: events one by one.
struct Events {
    body: Body,
    rest: String,
}

impl Events {
    async fn open(h: &Harness, uri: &str, accept: &str) -> Self {
        let request = Request::builder().uri(uri).header(header::ACCEPT, accept);
        let response = h.open(request.body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), StatusCode::OK);
        Self {
            body: response.into_body(),
            rest: String::new(),
        }
    }

    /// The next event; `None` at the end.
    async fn next(&mut self) -> Option<Value> {
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
        .fails(422, "Invalid", "NotOlderThan");
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
    assert_eq!(second["columnDefinitions"], json!([]));
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
