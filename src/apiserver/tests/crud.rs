//! Create, read, replace, patch.

use super::*;

#[tokio::test]
async fn create_completes_the_metadata() {
    let h = Harness::new().await;
    let made = h.make(ACTORS, &actor("a")).await;
    let metadata = &made["metadata"];
    assert_eq!(
        (&metadata["namespace"], &metadata["generation"]),
        (&json!("ns"), &json!(1))
    );
    assert_eq!(metadata["uid"].as_str().unwrap().len(), 36);
    assert!(version(&made) > 0);
    assert_eq!(made["spec"]["operatingMode"], "OnDemand");
    assert_eq!(made["status"]["phase"], "Suspended");
    assert_eq!(*h.get(&format!("{ACTORS}/a")).await.ok(), made);
    h.post(ACTORS, &actor("a")).await.fails(
        409,
        "AlreadyExists",
        "actors.runtime.ate.dev \"a\" already exists",
    );

    let made = h.make(POOLS, &pool("p")).await;
    assert_eq!(made["spec"]["sandboxClass"], "gvisor");
    assert!(made.get("status").is_none(), "{made}");
    assert_eq!(*h.get(&format!("{POOLS}/p")).await.ok(), made);
    h.post(POOLS, &pool("p"))
        .await
        .fails(409, "AlreadyExists", "already exists");
}

#[tokio::test]
async fn what_only_we_write_is_not_taken_from_clients() {
    let h = Harness::new().await;
    for (uri, mut object) in [(ACTORS, actor("a")), (POOLS, pool("p"))] {
        object["metadata"] = json!({"name": object["metadata"]["name"], "uid": "mine", "generation": 9,
            "creationTimestamp": "2020-01-01T00:00:00Z", "deletionTimestamp": "2020-01-01T00:00:00Z",
            "managedFields": [{"manager": "x"}], "labels": {"l": "1"}, "annotations": {"a": "1"}});
        object["status"] = json!({"phase": "Running", "replicas": 7});
        let made = h.make(uri, &object).await;
        assert_ne!(made["metadata"]["uid"], "mine");
        assert_eq!(made["metadata"]["generation"], 1);
        assert_eq!(made["metadata"]["labels"]["l"], "1");
        assert_eq!(made["metadata"]["annotations"]["a"], "1");
        assert!(
            !made["metadata"]["creationTimestamp"]
                .as_str()
                .unwrap()
                .starts_with("2020")
        );
        assert!(
            made["metadata"].get("deletionTimestamp").is_none(),
            "{made}"
        );
        assert_eq!(made["metadata"]["managedFields"][0]["manager"], "unknown");
        assert_ne!(made["status"]["replicas"], 7);
        assert_ne!(made["status"]["phase"], "Running");
    }
}

#[tokio::test]
async fn bad_objects_are_refused_with_the_reason() {
    let h = Harness::new().await;
    let with = |pointer: &str, value: Value| {
        let mut object = actor("a");
        *object.pointer_mut(pointer).unwrap() = value;
        object
    };
    let post = async |object: Value| h.post(ACTORS, &object).await;
    post(with(
        "/metadata",
        json!({"name": "a", "namespace": "other"}),
    ))
    .await
    .fails(
        400,
        "BadRequest",
        "does not match the namespace sent on the request",
    );
    post(with("/kind", json!("Pod")))
        .await
        .fails(400, "BadRequest", "the path expects");
    post(with(
        "/metadata",
        json!({"name": "a", "resourceVersion": "5"}),
    ))
    .await
    .fails(400, "BadRequest", "should not be set");
    post(with("/metadata", json!({})))
        .await
        .fails(422, "Invalid", "name or generateName");
    let answer = post(with(
        "/spec",
        json!({"templateRef": {}, "operatingMode": "Never"}),
    ))
    .await;
    answer.fails(422, "Invalid", "Actor.runtime.ate.dev \"a\" is invalid");
    let causes = answer.body["details"]["causes"].as_array().unwrap();
    let fields: Vec<_> = causes
        .iter()
        .map(|c| c["field"].as_str().unwrap())
        .collect();
    assert_eq!(fields, ["spec.operatingMode", "spec.templateRef.name"]);
    post(with("/metadata/name", json!("A_b")))
        .await
        .fails(422, "Invalid", "is not a DNS label");
    post(with(
        "/metadata",
        json!({"name": "a", "labels": {"x y": "1"}}),
    ))
    .await
    .fails(422, "Invalid", "metadata.labels");
    let unpinned = json!({"containers": [{"name": "app", "image": "python:3"}]});
    let mut bad = template("t");
    bad["spec"] = unpinned;
    h.post(TEMPLATES, &bad)
        .await
        .fails(422, "Invalid", "spec.containers[0].image");
    h.with("POST", ACTORS, "application/json", "{".into())
        .await
        .fails(400, "BadRequest", "not JSON");
    h.with(
        "POST",
        ACTORS,
        "application/vnd.kubernetes.protobuf",
        "k8s".into(),
    )
    .await
    .fails(415, "UnsupportedMediaType", "application/json");
    let huge = "x".repeat(super::super::body::MAX_BODY + 1);
    h.with("POST", ACTORS, "application/json", huge)
        .await
        .fails(413, "RequestEntityTooLarge", "limit is");
}

#[tokio::test]
async fn yaml_in_and_out() {
    let h = Harness::new().await;
    let yaml = "apiVersion: ate.dev/v1alpha1\nkind: WorkerPool\nmetadata: {name: y}\nspec: {replicas: 3}\n";
    let made = h.with("POST", POOLS, "application/yaml", yaml.into()).await;
    assert_eq!(made.code, StatusCode::CREATED, "{}", made.text);
    let answer = h.get_as(&format!("{POOLS}/y"), "application/yaml").await;
    assert_eq!(answer.headers[header::CONTENT_TYPE], "application/yaml");
    assert!(answer.text.contains("replicas: 3\n"), "{}", answer.text);
}

#[tokio::test]
async fn names_are_generated_where_asked() {
    let h = Harness::new().await;
    let mut object = actor("");
    object["metadata"] = json!({"generateName": "web-"});
    let made = h.make(ACTORS, &object).await;
    let name = made["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("web-") && name.len() == 9, "{name}");
}

#[tokio::test]
async fn replace_needs_the_current_version() {
    let h = Harness::new().await;
    for (uri, object, pointer, value) in [
        (
            ACTORS,
            actor("a"),
            "/spec/operatingMode",
            json!("Suspended"),
        ),
        (POOLS, pool("a"), "/spec/replicas", json!(5)),
    ] {
        let made = h.make(uri, &object).await;
        let uri = format!("{uri}/a");
        let mut changed = made.clone();
        *changed.pointer_mut(pointer).unwrap() = value.clone();
        let written = h.put(&uri, &changed).await.ok().clone();
        assert_eq!(written.pointer(pointer), Some(&value));
        assert_eq!(written["metadata"]["generation"], 2);
        assert!(version(&written) > version(&made));
        h.put(&uri, &changed)
            .await
            .fails(409, "Conflict", "has been modified");
        changed["metadata"]["resourceVersion"] = json!("");
        h.put(&uri, &changed)
            .await
            .fails(422, "Invalid", "must be specified for an update");
        changed["metadata"] = json!({"name": "b", "resourceVersion": "1"});
        h.put(&uri, &changed)
            .await
            .fails(400, "BadRequest", "does not match the name on the URL");
        h.put(&format!("{uri}b"), &made)
            .await
            .fails(400, "BadRequest", "does not match");
        let mut other = written.clone();
        other["metadata"]["uid"] = json!("another");
        h.put(&uri, &other).await.fails(409, "Conflict", "");
    }
}

#[tokio::test]
async fn a_write_that_changes_nothing_is_none() {
    let h = Harness::new().await;
    for (uri, object) in [
        (ACTORS, actor("a")),
        (POOLS, pool("a")),
        (TEMPLATES, template("a")),
    ] {
        let made = h.make(uri, &object).await;
        let uri = format!("{uri}/a");
        assert_eq!(*h.put(&uri, &made).await.ok(), made);
        assert_eq!(*h.merge(&uri, &object).await.ok(), made);
        let labelled = h
            .merge(&uri, &json!({"metadata": {"labels": {"a": "b"}}}))
            .await;
        assert_eq!(labelled.ok()["metadata"]["generation"], 1);
        assert!(version(labelled.ok()) > version(&made));
    }
    let own_namespace = json!({"spec": {"templateRef": {"namespace": "ns"}}});
    let before = h.get(&format!("{ACTORS}/a")).await.body;
    assert_eq!(
        *h.merge(&format!("{ACTORS}/a"), &own_namespace).await.ok(),
        before
    );
}

#[tokio::test]
async fn patches() {
    let h = Harness::new().await;
    h.make(POOLS, &pool("p")).await;
    let uri = format!("{POOLS}/p");
    let patched = h
        .merge(
            &uri,
            &json!({"spec": {"replicas": 4}, "metadata": {"annotations": {"a": "1"}}}),
        )
        .await;
    assert_eq!(patched.ok()["spec"]["replicas"], 4);
    let stale = json!({"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 9}});
    h.merge(&uri, &stale)
        .await
        .fails(409, "Conflict", "has been modified");
    let json_patch = "application/json-patch+json";
    let good = json!([{"op": "test", "path": "/spec/replicas", "value": 4}, {"op": "replace", "path": "/spec/replicas", "value": 5}]);
    assert_eq!(
        h.patch(&uri, json_patch, &good).await.ok()["spec"]["replicas"],
        5
    );
    h.patch(&uri, json_patch, &good)
        .await
        .fails(422, "Invalid", "cannot be applied");
    h.patch(&uri, json_patch, &json!([{"op": "x"}]))
        .await
        .fails(422, "Invalid", "not a JSON patch");
    h.patch(&uri, "application/strategic-merge-patch+json", &json!({}))
        .await
        .fails(415, "UnsupportedMediaType", "merge-patch");
    h.merge(&uri, &json!({"metadata": {"name": "q"}}))
        .await
        .fails(400, "BadRequest", "does not match the name on the URL");
    h.merge(&uri, &json!({"metadata": {"uid": "q"}}))
        .await
        .fails(
            422,
            "Invalid",
            "metadata.uid: Invalid value: \"q\": field is immutable",
        );
    h.merge(&uri, &json!({"spec": {"replicas": -1}}))
        .await
        .fails(422, "Invalid", "spec.replicas: must be 0 or more");
    h.merge(&uri, &json!({"spec": {"sandboxClass": "criu"}}))
        .await
        .fails(422, "Invalid", "immutable");
    h.merge(&format!("{POOLS}/none"), &json!({}))
        .await
        .fails(404, "NotFound", "not found");
}

#[tokio::test]
async fn templates_do_not_change() {
    let h = Harness::new().await;
    h.make(TEMPLATES, &template("t")).await;
    let change = json!({"spec": {"containers": [{"name": "app", "image": format!("x@sha256:{}", "b".repeat(64))}]}});
    h.merge(&format!("{TEMPLATES}/t"), &change)
        .await
        .fails(422, "Invalid", "spec is immutable");
}

#[tokio::test]
async fn an_awake_actor_keeps_its_template() {
    let h = Harness::new().await;
    h.make(ACTORS, &actor("a")).await;
    let change = json!({"spec": {"templateRef": {"name": "other"}}});
    h.post(&format!("{ACTORS}/a/resume?wait=5"), &json!({}))
        .await
        .ok();
    h.merge(&format!("{ACTORS}/a"), &change)
        .await
        .fails(422, "Invalid", "suspend it first");
    h.post(&format!("{ACTORS}/a/suspend?wait=5"), &json!({}))
        .await
        .ok();
    h.merge(&format!("{ACTORS}/a"), &change).await.ok();
}

#[tokio::test]
async fn unknown_fields() {
    let h = Harness::new().await;
    let mut object = pool("p");
    object["spec"]["oops"] = json!(1);
    object["metadata"]["wat"] = json!(1);
    let of = |validation: &str| format!("{POOLS}?dryRun=All&fieldValidation={validation}");
    let strict = h.post(&of("Strict"), &object).await;
    strict.fails(
        400,
        "BadRequest",
        "strict decoding error: unknown field \"metadata.wat\", unknown field \"spec.oops\"",
    );
    for (validation, warnings) in [("Warn", 2), ("", 2), ("Ignore", 0)] {
        let answer = h.post(&of(validation), &object).await;
        assert_eq!(answer.code, StatusCode::CREATED, "{}", answer.text);
        assert!(answer.body["spec"].get("oops").is_none());
        let all: Vec<_> = answer.headers.get_all("warning").iter().collect();
        assert_eq!(all.len(), warnings, "{all:?}");
        if warnings > 0 {
            assert_eq!(all[1], "299 - \"unknown field \\\"spec.oops\\\"\"");
        }
    }
    h.post(&of("Never"), &object)
        .await
        .fails(422, "Invalid", "\"Ignore\", \"Strict\", \"Warn\"");
}

#[tokio::test]
async fn a_dry_run_asks_for_room_as_well() {
    let h = Harness::capped(2).await;
    let dry = format!("{ACTORS}?dryRun=All");
    for name in ["a", "b"] {
        let would = h.post(&dry, &actor(name)).await;
        assert_eq!(would.code, StatusCode::CREATED, "{}", would.text);
        h.make(ACTORS, &actor(name)).await;
    }
    for uri in [ACTORS, &dry] {
        let why = "exceeded quota: namespace ns has its 2 actors";
        h.post(uri, &actor("c")).await.fails(403, "Forbidden", why);
    }
    let (uri, new) = (format!("{ACTORS}/c?dryRun=All"), actor("c"));
    let applied = h.apply(&uri, "one", &new).await;
    applied.fails(403, "Forbidden", "exceeded quota");
}

#[tokio::test]
async fn dry_runs_store_nothing() {
    let h = Harness::new().await;
    for (uri, object) in [(ACTORS, actor("a")), (POOLS, pool("a"))] {
        let dry = h.post(&format!("{uri}?dryRun=All"), &object).await;
        assert_eq!(dry.code, StatusCode::CREATED, "{}", dry.text);
        assert!(dry.body["metadata"].get("resourceVersion").is_none());
        h.get(&format!("{uri}/a"))
            .await
            .fails(404, "NotFound", "not found");
        let made = h.make(uri, &object).await;
        h.post(&format!("{uri}?dryRun=All"), &object)
            .await
            .fails(409, "AlreadyExists", "");
        let patch = json!({"metadata": {"labels": {"x": "y"}}});
        let dry = h.merge(&format!("{uri}/a?dryRun=All"), &patch).await;
        assert_eq!(dry.ok()["metadata"]["labels"]["x"], "y");
        h.delete(&format!("{uri}/a?dryRun=All"), None).await.ok();
        h.delete(
            &format!("{uri}/a"),
            Some(&json!({"kind": "DeleteOptions", "dryRun": ["All"]})),
        )
        .await
        .ok();
        assert_eq!(*h.get(&format!("{uri}/a")).await.ok(), made);
        h.post(&format!("{uri}?dryRun=Some"), &object).await.fails(
            422,
            "Invalid",
            "supported values: \"All\"",
        );
    }
}

#[tokio::test]
async fn status_and_spec_do_not_touch_each_other() {
    let h = Harness::new().await;
    let made = h.make(POOLS, &pool("p")).await;
    let uri = format!("{POOLS}/p/status");
    let patch = json!({"metadata": {"labels": {"x": "y"}}, "spec": {"replicas": 99}, "status": {"replicas": 2, "ready": 1}});
    let patched = h.merge(&uri, &patch).await.ok().clone();
    assert_eq!(
        (&patched["spec"], &patched["metadata"]["generation"]),
        (&made["spec"], &json!(1))
    );
    assert_eq!(patched["status"]["ready"], 1);
    assert!(patched["metadata"].get("labels").is_none());
    assert_eq!(*h.get(&uri).await.ok(), patched);
    let through_spec = h
        .merge(&format!("{POOLS}/p"), &json!({"status": {"ready": 7}}))
        .await;
    assert_eq!(*through_spec.ok(), patched);
    let mut sent = patched.clone();
    sent["status"]["ready"] = json!(2);
    assert_eq!(h.put(&uri, &sent).await.ok()["status"]["ready"], 2);
    h.put(&uri, &sent)
        .await
        .fails(409, "Conflict", "has been modified");
    h.merge(&uri, &json!({"status": {"ready": "many"}}))
        .await
        .fails(422, "Invalid", "status.ready");
    h.make(ACTORS, &actor("a")).await;
    h.get(&format!("{ACTORS}/a/status")).await.ok();
    h.merge(&format!("{ACTORS}/a/status"), &patch)
        .await
        .fails(405, "MethodNotAllowed", "");
}

#[tokio::test]
async fn racing_writers_of_one_field_each_all_win() {
    let h = Harness::new().await;
    h.make(POOLS, &pool("p")).await;
    let uri = format!("{POOLS}/p");
    let writes = (0..6).map(|i| {
        let (h, uri) = (&h, &uri);
        async move {
            let key = format!("k{i}");
            h.merge(uri, &json!({"metadata": {"labels": {key: "1"}}}))
                .await
                .code
        }
    });
    let codes = futures::future::join_all(writes).await;
    assert!(codes.iter().all(|c| *c == StatusCode::OK), "{codes:?}");
    let labels = h.get(&uri).await.body["metadata"]["labels"].clone();
    assert_eq!(labels.as_object().unwrap().len(), 6);
}
