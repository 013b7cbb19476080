//! Server-side apply over HTTP: what is stored, refused and left alone.

use super::*;

const APPLY: &str = "application/apply-patch+yaml";

impl Harness {
    pub(super) async fn apply(&self, uri: &str, by: &str, object: &Value) -> Answer {
        let sign = if uri.contains('?') { '&' } else { '?' };
        let uri = format!("{uri}{sign}fieldManager={by}");
        self.patch(&uri, APPLY, object).await
    }
}

/// Who owns what, without times: `manager operation subresource` and the fields.
fn managers(object: &Value) -> Vec<(String, Value)> {
    let all = object["metadata"]["managedFields"].as_array();
    let text = |e: &Value, f: &str| e[f].as_str().unwrap_or_default().to_owned();
    let all = all.into_iter().flatten().map(|e| {
        let name = ["manager", "operation", "subresource"].map(|f| text(e, f));
        (name.join(" ").trim().to_owned(), e["fieldsV1"].clone())
    });
    all.collect()
}

fn zone(name: &str) -> Value {
    json!({"matchLabels": {"zone": name}})
}

fn names(object: &Value) -> Vec<String> {
    managers(object).into_iter().map(|m| m.0).collect()
}

#[tokio::test]
async fn an_actor_is_made_changed_and_left_alone() {
    let h = Harness::new().await;
    let uri = format!("{ACTORS}/a");
    let mut wanted = actor("a");
    wanted["metadata"]["labels"] = json!({"tier": "gold"});
    let made = h.apply(&uri, "one", &wanted).await;
    assert_eq!(made.code, StatusCode::CREATED, "{}", made.text);
    let owned = json!({"f:metadata": {"f:labels": {"f:tier": {}}}, "f:spec": {"f:templateRef": {"f:name": {}}}});
    assert_eq!(managers(&made.body), [("one Apply".to_owned(), owned)]);
    let entry = &made.body["metadata"]["managedFields"][0];
    assert_eq!(entry["apiVersion"], "runtime.ate.dev/v1alpha1");
    assert_eq!(entry["fieldsType"], "FieldsV1");
    assert!(entry["time"].as_str().unwrap().ends_with('Z'), "{entry}");
    assert_eq!(*h.get(&uri).await.ok(), made.body);

    // Again: nothing is written, not even the time.
    let again = h.apply(&uri, "one", &wanted).await;
    assert_eq!(*again.ok(), made.body);

    wanted["metadata"]["labels"] = json!({});
    wanted["spec"]["workerSelector"] = zone("a");
    let changed = h.apply(&uri, "one", &wanted).await;
    let changed = changed.ok();
    assert!(version(changed) > version(&made.body));
    assert_eq!(changed["metadata"]["generation"], 2);
    assert_eq!(changed["spec"]["workerSelector"], zone("a"));
    assert!(changed["metadata"].get("labels").is_none(), "{changed}");
    assert_eq!(changed["metadata"]["uid"], made.body["metadata"]["uid"]);
}

#[tokio::test]
async fn conflicts_name_fields_and_owners() {
    let h = Harness::new().await;
    let uri = format!("{ACTORS}/a");
    let mut wanted = actor("a");
    wanted["spec"]["workerSelector"] = zone("a");
    h.apply(&uri, "one", &wanted).await;
    let patch = json!({"metadata": {"labels": {"tier": "gold"}}});
    let patched = h.merge(&format!("{uri}?fieldManager=edit"), &patch).await;
    assert_eq!(names(patched.ok()), ["one Apply", "edit Update"]);

    let mut other = actor("a");
    other["spec"]["workerSelector"] = zone("b");
    let answer = h.apply(&uri, "two", &other).await;
    answer.fails(
        409,
        "Conflict",
        "Apply failed with 1 conflict: conflict with \"one\": .spec.workerSelector.matchLabels.zone",
    );
    let causes = json!({"causes": [{"reason": "FieldManagerConflict", "message": "conflict with \"one\"",
        "field": ".spec.workerSelector.matchLabels.zone"}]});
    assert_eq!(answer.body["details"], causes);
    other["metadata"]["labels"] = json!({"tier": "iron"});
    let text = "Apply failed with 2 conflicts: conflicts with \"edit\" using runtime.ate.dev/v1alpha1:\n\
        - .metadata.labels.tier\nconflicts with \"one\":\n- .spec.workerSelector.matchLabels.zone";
    h.apply(&uri, "two", &other)
        .await
        .fails(409, "Conflict", text);

    let forced = h.apply(&format!("{uri}?force=true"), "two", &other).await;
    assert_eq!(forced.ok()["spec"]["workerSelector"], zone("b"));
    let left = ["one Apply", "two Apply", "edit Update"];
    assert_eq!(names(forced.ok()), left);
    let left = json!({"f:spec": {"f:templateRef": {"f:name": {}}}});
    assert_eq!(managers(forced.ok())[0].1, left);
    // What both want stays when one leaves; what only one wanted goes.
    let mut less = actor("a");
    less["spec"] = json!({});
    let answer = h.apply(&uri, "two", &less).await;
    assert!(
        answer.ok()["spec"].get("workerSelector").is_none(),
        "{}",
        answer.text
    );
    assert_eq!(answer.ok()["spec"]["templateRef"]["name"], "counter");
}

#[tokio::test]
async fn writes_of_any_kind_are_tracked() {
    let h = Harness::new().await;
    let uri = format!("{POOLS}/p");
    let made = h
        .post(&format!("{POOLS}?fieldManager=maker"), &pool("p"))
        .await;
    assert_eq!(names(&made.body), ["maker Update"]);
    let mut put = made.body.clone();
    put["spec"]["replicas"] = 3.into();
    let changed = h.put(&format!("{uri}?fieldManager=putter"), &put).await;
    assert_eq!(names(changed.ok()), ["maker Update", "putter Update"]);
    let scale = json!({"spec": {"replicas": 4}});
    let uri_scale = format!("{uri}/scale?fieldManager=hpa");
    h.merge(&uri_scale, &scale).await.ok();
    let status = json!({"status": {"ready": 1}});
    let answer = h
        .merge(&format!("{uri}/status?fieldManager=ctl"), &status)
        .await;
    let all = managers(answer.ok());
    let find = |name: &str| all.iter().find(|m| m.0 == name).map(|m| m.1.clone());
    assert_eq!(
        find("hpa Update scale"),
        Some(json!({"f:spec": {"f:replicas": {}}}))
    );
    let status = find("ctl Update status").unwrap();
    assert!(status["f:status"].get("f:ready").is_some(), "{status}");
    assert_eq!(find("putter Update"), None);
    let conflict = h.apply(&uri, "one", &pool("p")).await;
    conflict.fails(
        409,
        "Conflict",
        "conflict with \"hpa\" with subresource \"scale\" using ate.dev/v1alpha1: .spec.replicas",
    );
    // Who writes is said by the client's name if by nothing else.
    let request = Request::builder()
        .method("PATCH")
        .uri(&uri)
        .header(header::CONTENT_TYPE, "application/merge-patch+json")
        .header(header::USER_AGENT, "curl/8.1 (x)")
        .body(Body::from(r#"{"metadata":{"labels":{"a":"b"}}}"#));
    let answer = h.send(request.unwrap()).await;
    assert!(names(answer.ok()).contains(&"curl Update".to_owned()));
    // Forgotten when asked.
    let reset = json!([{"op": "replace", "path": "/metadata/managedFields", "value": [{}]}]);
    let answer = h.patch(&uri, "application/json-patch+json", &reset).await;
    assert!(names(answer.ok()).is_empty());
}

#[tokio::test]
async fn a_scale_is_applied() {
    let h = Harness::new().await;
    h.apply(&format!("{POOLS}/p"), "one", &pool("p")).await;
    let uri = format!("{POOLS}/p/scale");
    let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "spec": {"replicas": 7}});
    h.apply(&uri, "hpa", &scale).await.fails(
        409,
        "Conflict",
        "conflict with \"one\": .spec.replicas",
    );
    let forced = h.apply(&format!("{uri}?force=true"), "hpa", &scale).await;
    assert_eq!(forced.ok()["spec"]["replicas"], 7);
    let answer = h.get(&format!("{POOLS}/p")).await;
    assert!(names(answer.ok()).contains(&"hpa Apply scale".to_owned()));
}

#[tokio::test]
async fn status_is_applied_on_its_own() {
    let h = Harness::new().await;
    h.apply(&format!("{POOLS}/p"), "one", &pool("p")).await;
    let mut wanted =
        json!({"apiVersion": "ate.dev/v1alpha1", "kind": "WorkerPool", "metadata": {"name": "p"}});
    wanted["status"] = json!({"ready": 2});
    wanted["spec"] = json!({"replicas": 9});
    let uri = format!("{POOLS}/p/status");
    let answer = h.apply(&uri, "ctl", &wanted).await;
    assert_eq!(answer.ok()["status"]["ready"], 2);
    assert_eq!(answer.ok()["spec"]["replicas"], 2);
    assert_eq!(answer.ok()["metadata"]["generation"], 1);
    let own = managers(answer.ok());
    let own = own.iter().find(|m| m.0 == "ctl Apply status").unwrap();
    assert_eq!(own.1, json!({"f:status": {"f:ready": {}}}));
    wanted["metadata"]["name"] = "absent".into();
    h.apply(&format!("{POOLS}/absent/status"), "ctl", &wanted)
        .await
        .fails(404, "NotFound", "\"absent\" not found");
}

#[tokio::test]
async fn what_cannot_be_applied_is_refused() {
    let h = Harness::new().await;
    let uri = format!("{ACTORS}/a");
    let with = |pointer: &str, value: Value| {
        let mut object = actor("a");
        object["metadata"][pointer] = value;
        object
    };
    h.patch(&uri, APPLY, &actor("a")).await.fails(
        422,
        "Invalid",
        "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
    );
    let long = "x".repeat(129);
    h.apply(&uri, &long, &actor("a"))
        .await
        .fails(422, "Invalid", "fieldManager: Too long");
    h.merge(&format!("{uri}?force=true"), &json!({}))
        .await
        .fails(422, "Invalid", "may not be specified for non-apply patch");
    h.apply(
        &uri,
        "one",
        &with("managedFields", json!([{"manager": "x"}])),
    )
    .await
    .fails(400, "BadRequest", "metadata.managedFields must be nil");
    h.apply(&uri, "one", &with("name", json!("b"))).await.fails(
        400,
        "BadRequest",
        "does not match the name on the URL",
    );
    h.apply(&uri, "one", &with("namespace", json!("b")))
        .await
        .fails(400, "BadRequest", "does not match the namespace");
    h.apply(&uri, "one", &with("uid", json!("5")))
        .await
        .fails(409, "Conflict", "uid mismatch");
    h.apply(&uri, "one", &json!({"kind": "Pod", "apiVersion": "v1"}))
        .await
        .fails(400, "BadRequest", "invalid object type: v1, Kind=Pod");
    let mut unknown = actor("a");
    unknown["spec"]["oops"] = 1.into();
    h.apply(&uri, "one", &unknown).await.fails(
        400,
        "BadRequest",
        "failed to create typed patch object (ns/a; runtime.ate.dev/v1alpha1, Kind=Actor): .spec.oops: field not declared in schema",
    );
    let mut bad = actor("a");
    bad["spec"]["operatingMode"] = "Never".into();
    h.apply(&uri, "one", &bad)
        .await
        .fails(422, "Invalid", "spec.operatingMode");
    let named = format!("{uri}?fieldManager=x");
    h.with("PATCH", &named, APPLY, "{".into()).await.fails(
        400,
        "BadRequest",
        "error decoding YAML",
    );
    h.get(&uri).await.fails(404, "NotFound", "not found");

    let dry = h
        .apply(&format!("{uri}?dryRun=All"), "one", &actor("a"))
        .await;
    assert_eq!(dry.code, StatusCode::CREATED, "{}", dry.text);
    h.get(&uri).await.fails(404, "NotFound", "not found");
    let yaml = "apiVersion: runtime.ate.dev/v1alpha1\nkind: Actor\nspec:\n  templateRef: {name: counter}\n";
    let made = h.with("PATCH", &named, APPLY, yaml.into()).await;
    assert_eq!(made.code, StatusCode::CREATED, "{}", made.text);
}

#[tokio::test]
async fn actors_made_through_grpc_carry_no_managed_fields() {
    let h = Harness::new().await;
    let key = ActorKey::new("ns", "flat");
    let mut record = ActorRecord {
        key,
        ..ActorRecord::default()
    };
    record.status.uid = uuid::Uuid::new_v4();
    record.status.flat = true;
    record.spec.generation = 1;
    record.spec.template = crate::api::names::TemplateKey::new("ns", "counter");
    h.store.create_actor(record, 10).await.unwrap();
    let uri = format!("{ACTORS}/flat");
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    assert!(names(h.merge(&uri, &label).await.ok()).is_empty());
    let mut wanted = actor("flat");
    wanted["spec"]["templateRef"]["name"] = "other".into();
    h.apply(&uri, "one", &wanted)
        .await
        .fails(409, "Conflict", "\"before-first-apply\" using");
    let forced = h.apply(&format!("{uri}?force=true"), "one", &wanted).await;
    assert_eq!(
        names(forced.ok()),
        ["one Apply", "before-first-apply Update"]
    );
}

/// A controller that says one thing about an object does not unsay what another one says.
#[tokio::test]
async fn conditions_of_several_managers_stand_side_by_side() {
    let h = Harness::new().await;
    h.make(POOLS, &pool("p")).await;
    let uri = format!("{POOLS}/p/status");
    let says = |kind: &str, status: &str| {
        let condition = json!({"type": kind, "status": status, "reason": "Seen", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let mut object = pool("p");
        object["status"] = json!({"conditions": [condition]});
        object
    };
    h.apply(&uri, "one", &says("Ready", "False")).await.ok();
    h.apply(&uri, "two", &says("Stalled", "True")).await.ok();
    let last = h.apply(&uri, "one", &says("Ready", "True")).await;
    let all = last.ok()["status"]["conditions"].as_array().unwrap();
    let all: Vec<_> = all.iter().map(|c| (&c["type"], &c["status"])).collect();
    let (ready, stalled) = (json!("Ready"), json!("Stalled"));
    let yes = json!("True");
    assert_eq!(all, [(&ready, &yes), (&stalled, &yes)]);
    let other = h.apply(&uri, "two", &says("Ready", "False")).await;
    let field = r#".status.conditions[type="Ready"].status"#;
    other.fails(409, "Conflict", field);
}

#[tokio::test]
async fn a_list_with_the_same_key_twice_is_refused() {
    let h = Harness::new().await;
    let mut twice = template("t");
    let port = json!({"containerPort": 80});
    twice["spec"]["containers"][0]["ports"] = json!([port, port]);
    let refused = h.post(TEMPLATES, &twice).await;
    let said = r#"spec.containers[0].ports[1]: Duplicate value: {"containerPort":80}"#;
    refused.fails(422, "Invalid", said);
    let cause = &refused.body["details"]["causes"][0];
    assert_eq!(cause["reason"], "FieldValueDuplicate", "{cause}");
}
