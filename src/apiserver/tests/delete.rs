//! Deletion: finalizers, preconditions, collections.

use super::*;

#[tokio::test]
async fn gone_at_once_where_nothing_holds_it() {
    let h = Harness::new().await;
    for (uri, object) in [(ACTORS, actor("a")), (POOLS, pool("a"))] {
        let made = h.make(uri, &object).await;
        let uri = format!("{uri}/a");
        let status = h.delete(&uri, Some(&json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}))).await;
        assert_eq!(status.ok()["status"], "Success");
        assert_eq!(status.body["details"]["uid"], made["metadata"]["uid"]);
        h.get(&uri).await.fails(404, "NotFound", "not found");
        h.delete(&uri, None)
            .await
            .fails(404, "NotFound", "not found");
    }
}

#[tokio::test]
async fn finalizers_hold_an_object() {
    let h = Harness::new().await;
    for (uri, mut object) in [(ACTORS, actor("a")), (POOLS, pool("a"))] {
        object["metadata"]["finalizers"] = json!(["example.org/hold"]);
        h.make(uri, &object).await;
        let uri = format!("{uri}/a");
        let marked = h.delete(&uri, None).await.ok().clone();
        assert!(
            marked["metadata"]["deletionTimestamp"].is_string(),
            "{marked}"
        );
        assert_eq!(marked["metadata"]["generation"], 2);
        let again = h.delete(&uri, None).await.ok().clone();
        assert_eq!(
            again["metadata"]["deletionTimestamp"],
            marked["metadata"]["deletionTimestamp"]
        );
        assert_eq!(again["metadata"]["generation"], 2);
        let more = json!({"metadata": {"finalizers": ["example.org/hold", "example.org/more"]}});
        h.merge(&uri, &more)
            .await
            .fails(422, "Invalid", "being deleted");
        h.merge(&uri, &json!({"metadata": {"deletionTimestamp": null}}))
            .await
            .ok();
        assert!(h.get(&uri).await.ok()["metadata"]["deletionTimestamp"].is_string());
        h.merge(&uri, &json!({"metadata": {"finalizers": null}}))
            .await
            .ok();
        h.get(&uri).await.fails(404, "NotFound", "not found");
    }
}

#[tokio::test]
async fn preconditions() {
    let h = Harness::new().await;
    for (uri, object) in [(ACTORS, actor("a")), (POOLS, pool("a"))] {
        let made = h.make(uri, &object).await;
        let uri = format!("{uri}/a");
        for (field, wrong) in [("uid", "other"), ("resourceVersion", "1")] {
            let body = json!({"preconditions": {field: wrong}});
            h.delete(&uri, Some(&body))
                .await
                .fails(409, "Conflict", "in the precondition");
        }
        let body = json!({"preconditions": {"uid": made["metadata"]["uid"], "resourceVersion": made["metadata"]["resourceVersion"]}});
        h.delete(&uri, Some(&body)).await.ok();
    }
    h.delete(
        &format!("{POOLS}/x"),
        Some(&json!({"propagationPolicy": "Sideways"})),
    )
    .await
    .fails(422, "Invalid", "propagationPolicy");
}

#[tokio::test]
async fn collections_honour_selectors() {
    let h = Harness::new().await;
    for (uri, make) in [(ACTORS, actor as fn(&str) -> Value), (POOLS, pool)] {
        for name in ["a", "b", "c"] {
            let mut object = make(name);
            object["metadata"]["labels"] = json!({"keep": (name == "b").to_string()});
            h.make(uri, &object).await;
        }
        let elsewhere = uri.replace("/ns/", "/other/");
        h.make(&elsewhere, &make("a")).await;
        let deleted = h
            .delete(&format!("{uri}?labelSelector=keep%3Dfalse"), None)
            .await;
        assert_eq!(deleted.ok()["items"].as_array().unwrap().len(), 2);
        let left = h.get(uri).await.body;
        assert_eq!(left["items"].as_array().unwrap().len(), 1);
        assert_eq!(left["items"][0]["metadata"]["name"], "b");
        assert_eq!(
            h.get(&elsewhere).await.body["items"]
                .as_array()
                .unwrap()
                .len(),
            1
        );
    }
    let all = POOLS.replace("/namespaces/ns", "");
    h.delete(&all, None)
        .await
        .fails(405, "MethodNotAllowed", "");
}

#[tokio::test]
async fn a_large_collection_goes_also_when_its_version_does() {
    let h = Harness::new().await;
    super::list::many(&h, 1_100).await;
    let trim = async {
        // The first page is read when something of it is gone.
        while h.get(&format!("{ACTORS}/n00000")).await.code == StatusCode::OK {
            tokio::task::yield_now().await;
        }
        h.trim_logs();
    };
    let (answer, ()) = tokio::join!(h.delete(ACTORS, None), trim);
    assert_eq!(answer.ok()["status"], "Success");
    let left = h.get(ACTORS).await;
    assert_eq!(left.ok()["items"], json!([]));
}
