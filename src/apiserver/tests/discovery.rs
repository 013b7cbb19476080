//! Discovery, OpenAPI, and paths that lead nowhere.

use super::*;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

#[tokio::test]
async fn old_style() {
    let h = Harness::new().await;
    let groups = h.get("/apis").await.ok()["groups"].clone();
    let names: Vec<_> = groups
        .as_array()
        .unwrap()
        .iter()
        .map(|g| g["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["ate.dev", "runtime.ate.dev"]);
    assert_eq!(h.get("/api").await.ok()["versions"], json!(["v1"]));
    let group = h.get("/apis/runtime.ate.dev").await.ok().clone();
    assert_eq!(
        group["preferredVersion"]["groupVersion"],
        "runtime.ate.dev/v1alpha1"
    );
    let list = h.get("/apis/runtime.ate.dev/v1alpha1").await.ok().clone();
    let names: Vec<_> = list["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        names,
        [
            "actors",
            "actors/status",
            "actors/resume",
            "actors/suspend",
            "actors/pause",
            "actors/log",
            "workers",
            "nodeagents"
        ]
    );
    assert_eq!(list["resources"][0]["shortNames"], json!(["act"]));
    let list = h.get("/apis/ate.dev/v1alpha1").await.ok().clone();
    let scale = list["resources"]
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["name"] == "workerpools/scale")
        .unwrap()
        .clone();
    assert_eq!(
        (&scale["kind"], &scale["group"], &scale["version"]),
        (&json!("Scale"), &json!("autoscaling"), &json!("v1"))
    );
    assert_eq!(
        h.get("/api/v1").await.ok()["resources"][0]["name"],
        "namespaces"
    );
    let root = h.get("/").await.ok()["paths"].clone();
    assert!(
        root.as_array()
            .unwrap()
            .contains(&json!("/apis/ate.dev/v1alpha1")),
        "{root}"
    );
}

#[tokio::test]
async fn aggregated_with_etag() {
    let h = Harness::new().await;
    let answer = h.get_as("/apis", AGGREGATED).await;
    assert_eq!(answer.headers[header::CONTENT_TYPE], AGGREGATED);
    assert_eq!(answer.headers[header::VARY], "Accept");
    let resource = &answer.ok()["items"][1]["versions"][0]["resources"][0];
    assert_eq!(
        resource["responseKind"],
        json!({"group": "runtime.ate.dev", "version": "v1alpha1", "kind": "Actor"})
    );
    assert_eq!(resource["scope"], "Namespaced");
    let tag = answer.headers[header::ETAG].clone();
    let again = Request::builder()
        .uri("/apis")
        .header(header::ACCEPT, AGGREGATED)
        .header(header::IF_NONE_MATCH, tag.clone())
        .body(Body::empty())
        .unwrap();
    let again = h.send(again).await;
    assert_eq!(again.code, StatusCode::NOT_MODIFIED);
    assert_eq!(again.headers[header::ETAG], tag);
    let core = h.get_as("/api", AGGREGATED).await.ok().clone();
    assert_eq!(
        core["items"][0]["versions"][0]["resources"][0]["resource"],
        "namespaces"
    );
}

#[tokio::test]
async fn openapi_documents() {
    let h = Harness::new().await;
    let index = h.get("/openapi/v3").await.ok()["paths"].clone();
    for path in [
        "api/v1",
        "apis/ate.dev/v1alpha1",
        "apis/runtime.ate.dev/v1alpha1",
    ] {
        let url = index[path]["serverRelativeURL"].as_str().unwrap();
        let document = h.get(url).await.ok().clone();
        assert_eq!(document["openapi"], "3.0.0");
        // Every reference leads somewhere.
        let text = document.to_string();
        for reference in text.split("\"$ref\":\"#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap();
            assert!(
                document["components"]["schemas"].get(name).is_some(),
                "{name}"
            );
        }
    }
    let document = h
        .get("/openapi/v3/apis/runtime.ate.dev/v1alpha1")
        .await
        .ok()
        .clone();
    let patch = &document["paths"]["/apis/runtime.ate.dev/v1alpha1/namespaces/{namespace}/actors/{name}"]
        ["patch"];
    assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Actor");
    let parameters = patch["parameters"].as_array().unwrap();
    assert!(
        parameters.iter().any(|p| p["name"] == "fieldValidation"),
        "{patch}"
    );
    assert!(!document.to_string().contains("strategic-merge-patch"));
    let status = &document["components"]["schemas"]["dev.ate.runtime.v1alpha1.Actor"]["properties"]
        ["status"];
    let conditions = &status["properties"]["conditions"];
    assert_eq!(conditions["x-kubernetes-list-type"], "map");
    assert_eq!(conditions["x-kubernetes-list-map-keys"], json!(["type"]));
    let v2 = h.get("/openapi/v2").await.ok().clone();
    assert!(
        v2["definitions"]
            .get("dev.ate.v1alpha1.WorkerPool")
            .is_some()
    );
    let protobuf = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let answer = h.get_as("/openapi/v2", protobuf).await;
    assert_eq!(
        (answer.code, &answer.headers[header::CONTENT_TYPE]),
        (StatusCode::OK, &protobuf.parse().unwrap())
    );
    h.get("/openapi/v3/apis/nothing/v1")
        .await
        .fails(404, "NotFound", "could not find");
}

#[tokio::test]
async fn paths_that_lead_nowhere() {
    let h = Harness::new().await;
    for path in [
        "/nothing",
        "/apis/x",
        "/apis/ate.dev/v9",
        "/apis/ate.dev/v1alpha1/pods",
        "/api/v1/pods",
        "/apis/ate.dev/v1alpha1/workerpools/p",
        "/api/v1/namespaces/ns/namespaces/x",
        "/apis/ate.dev/v1alpha1/namespaces/ns/workerpools/p/nothing",
        "/apis/ate.dev/v1alpha1/namespaces/ns/workerpools/p/scale/x",
    ] {
        h.get(path)
            .await
            .fails(404, "NotFound", "could not find the requested resource");
    }
    assert_eq!(h.get("/version").await.ok()["major"], "1");
    for path in ["/healthz", "/livez", "/readyz"] {
        assert_eq!(h.get(path).await.text, "ok");
    }
    h.post(&format!("{POOLS}/p"), &json!({}))
        .await
        .fails(405, "MethodNotAllowed", "");
}

/// Whoever watches everything passes over a kind that does not say it can be watched; whoever knows it watches it.
#[tokio::test]
async fn watch_can_be_left_unsaid() {
    let h = Harness::new().await;
    let mut kinds = kinds::dev(&h.store, &h.driver(), &h.known(), ActorCaps::fixed(10)).unwrap();
    kinds[0].watch_hidden = true;
    let router = App::builder().register_all(kinds).build().router();
    let ask = async |uri: &str, accept: &str| {
        let request = Request::builder().uri(uri).header(header::ACCEPT, accept);
        let request = request.body(Body::empty()).unwrap();
        router.clone().oneshot(request).await.unwrap()
    };
    let read = async |response: axum::response::Response| -> Value {
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await;
        serde_json::from_slice(&body.unwrap()).unwrap()
    };
    let old = read(ask("/apis/runtime.ate.dev/v1alpha1", "application/json").await).await;
    let new = read(ask("/apis", AGGREGATED).await).await;
    let resources = [
        &old["resources"],
        &new["items"][1]["versions"][0]["resources"],
    ];
    for all in resources {
        let of = |name: &str| {
            let named = |r: &&Value| r["name"] == name || r["resource"] == name;
            let found = all.as_array().unwrap().iter().find(named).unwrap();
            found["verbs"].to_string()
        };
        assert!(!of("actors").contains("watch") && of("actors").contains("deletecollection"));
        assert!(of("workers").contains("watch"));
    }
    let watch = ask(&format!("{ACTORS}?watch=1"), "application/json").await;
    assert_eq!(watch.status(), StatusCode::OK);
}
