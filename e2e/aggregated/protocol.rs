//! What clients send that kubectl does not, through kube-apiserver or to a replica.

use super::direct::{Answer, Direct};
use super::harness::{Namespace, actor, alone, shared, shared_first};
use futures::StreamExt;
use http::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn admin(c: &super::harness::Cluster) -> Direct {
    Direct::proxy(c).by_admin()
}

#[track_caller]
fn refused(answer: &Answer, code: u16, reason: &str) {
    assert_eq!(answer.code, code, "{}", answer.text);
    assert_eq!(answer.body["kind"], "Status", "{}", answer.text);
    assert_eq!(answer.body["reason"], reason, "{}", answer.text);
}

fn labelled(ns: &Namespace, name: &str, labels: Value) {
    let mut object: Value = serde_json::from_str(&actor(name)).unwrap();
    object["metadata"]["labels"] = labels;
    ns.pipe(&["create", "-f", "-"], &object.to_string());
}

fn names(list: &Value) -> Vec<&str> {
    let all = list["items"].as_array().unwrap().iter();
    all.map(|o| o["metadata"]["name"].as_str().unwrap())
        .collect()
}

#[test]
fn check_25_a_wrong_uid_deletes_nothing() {
    let c = shared();
    let ns = c.0.namespace("uid");
    ns.actor("a");
    let path = format!("{}/a", ns.actors());
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "00000000-0000-0000-0000-000000000000"}});
    let said = c.try_pipe(&["delete", "--raw", &path, "-f", "-"], &options.to_string());
    let said = said.unwrap_err();
    assert!(said.contains("Conflict"), "{said}");
    let url = format!("{}{path}", c.replica(0));
    let answer = admin(&c).send(
        Method::DELETE,
        &url,
        "application/json",
        options.to_string(),
    );
    refused(&answer, 409, "Conflict");
    assert!(!ns.field("actor/a", ".metadata.uid").is_empty());
}

#[test]
fn check_28_selectors_select_exactly() {
    let c = shared();
    let ns = c.0.namespace("select");
    for (name, team) in [("a1", "a"), ("a2", "a"), ("b1", "b")] {
        labelled(&ns, name, json!({"team": team}));
    }
    let get = |selector: &[&str]| {
        let said = ns.kubectl(&[&["get", "actors", "-o", "json"], selector].concat());
        let list: Value = serde_json::from_str(&said).unwrap();
        names(&list)
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(get(&["-l", "team=a"]), ["a1", "a2"]);
    assert_eq!(get(&["-l", "team notin (a)"]), ["b1"]);
    assert_eq!(get(&["--field-selector", "metadata.name=a2"]), ["a2"]);
    assert_eq!(get(&["--field-selector", "status.phase=Running"]), [""; 0]);
    let raw = format!("{}?labelSelector=team%3Da", ns.actors());
    c.kubectl(&["delete", "--raw", &raw]);
    super::harness::eventually("what matches is gone", || {
        (get(&[]) == ["b1"]).then_some(())
    });
}

#[test]
fn check_29_an_unknown_field_selector_is_refused() {
    let c = shared();
    let said = c.try_kubectl(&["get", "actors", "-A", "--field-selector", "spec.colour=red"]);
    let said = said.unwrap_err();
    assert!(
        said.contains("(BadRequest)") && said.contains("spec.colour"),
        "{said}"
    );
}

#[test]
fn check_30_strategic_patches_are_for_kubernetes_own_kinds() {
    let c = shared();
    let ns = c.0.namespace("strategic");
    ns.actor("a");
    let url = format!("{}{}/a", c.replica(0), ns.actors());
    let kind = "application/strategic-merge-patch+json";
    let answer = admin(&c).send(Method::PATCH, &url, kind, "{}");
    refused(&answer, 415, "UnsupportedMediaType");
    assert!(
        !answer.text.contains("strategic"),
        "not among those that are taken: {}",
        answer.text
    );
}

#[test]
fn check_31_metadata_clients_get_json() {
    let c = shared();
    let ns = c.0.namespace("metadata");
    ns.actor("a");
    let proto = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let json = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let ask = |url: &str, accept: String| {
        let direct = admin(&c).header("accept", &accept);
        direct.get(url)
    };
    let accept = format!("{proto},{json},application/json");
    let one = ask(
        &format!("{}{}/a", c.replica(0), ns.actors()),
        accept.clone(),
    );
    assert_eq!(
        (one.code, &one.body["kind"]),
        (200, &json!("PartialObjectMetadata")),
        "{}",
        one.text
    );
    assert_eq!(one.body.get("spec"), None);
    assert_eq!(one.body["metadata"]["name"], "a");
    let list = accept.replace("PartialObjectMetadata", "PartialObjectMetadataList");
    let all = ask(&format!("{}{}", c.replica(0), ns.actors()), list);
    assert_eq!(
        all.body["kind"], "PartialObjectMetadataList",
        "{}",
        all.text
    );
    assert_eq!(names(&all.body), ["a"]);
}

#[test]
fn check_32_a_json_patch_whose_test_fails() {
    let c = shared();
    let ns = c.0.namespace("jsonpatch");
    ns.actor("a");
    let patch = r#"[{"op": "test", "path": "/metadata/name", "value": "b"}, {"op": "add", "path": "/metadata/labels", "value": {"x": "1"}}]"#;
    let said = ns.try_kubectl(&["patch", "actor", "a", "--type=json", "-p", patch]);
    let said = said.unwrap_err();
    assert!(
        said.contains("Invalid") || said.contains("invalid"),
        "{said}"
    );
    let url = format!("{}{}/a", c.replica(0), ns.actors());
    let answer = admin(&c).send(Method::PATCH, &url, "application/json-patch+json", patch);
    refused(&answer, 422, "Invalid");
    assert_eq!(ns.field("actor/a", ".metadata.labels"), "");
}

#[test]
fn check_36_generated_names_are_unique() {
    const COUNT: usize = 10_000;
    const AT_ONCE: usize = 64;
    let c = shared_first();
    let ns = c.0.namespace("generate");
    let direct = admin(&c);
    let url = format!("{}{}", c.replica(0), ns.actors());
    let mut object: Value = serde_json::from_str(&actor("x")).unwrap();
    object["metadata"] = json!({"generateName": "many-"});
    let body = object.to_string();
    let one = async || {
        let request = direct.request(Method::POST, &url);
        let request = request
            .header("content-type", "application/json")
            .body(body.clone());
        let response = request.send().await.unwrap();
        let code = response.status().as_u16();
        let text = response.text().await.unwrap();
        assert_eq!(code, 201, "{text}");
        let made: Value = serde_json::from_str(&text).unwrap();
        made["metadata"]["name"].as_str().unwrap().to_owned()
    };
    let made: BTreeSet<String> = direct.runtime.block_on(async {
        let all = futures::stream::iter((0..COUNT).map(|_| one()));
        all.buffer_unordered(AT_ONCE).collect().await
    });
    assert_eq!(made.len(), COUNT);
    assert!(made.iter().all(|n| n.len() == "many-".len() + 5));
}

#[test]
fn check_37_many_watches_share_a_connection() {
    const WATCHES: usize = 600;
    let c = alone();
    let ns = c.0.namespace("watches");
    ns.actor("a");
    let direct = admin(&c);
    let url = format!("{}{}", c.replica(0), ns.actors());
    let answer = direct.get(&url);
    let version = answer.body["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned();
    let watch = format!("{url}?watch=1&timeoutSeconds=300&resourceVersion={version}");
    direct.runtime.block_on(async {
        let open = (0..WATCHES).map(|_| direct.request(Method::GET, &watch).send());
        let watches = futures::future::join_all(open).await;
        for watch in &watches {
            let status = watch.as_ref().map(|w| w.status().as_u16());
            assert!(matches!(status, Ok(200)), "{status:?}");
        }
        let other = direct.request(Method::GET, &url).send().await.unwrap();
        assert_eq!(other.status(), 200);
    });
}
