//! What an installation sets: how many actors a namespace may have, whether discovery says that they can be watched; and
//! what is written down of each write.

use super::direct::Direct;
use super::harness::{actor, alone, eventually, shared};
use http::Method;
use serde_json::{Value, json};

const API_SERVICE: &str = "apiservice/v1alpha1.runtime.ate.dev";

/// What ResourceQuota would say, which kube-apiserver does not ask for kinds that it forwards.
#[test]
fn a_namespace_has_a_cap_of_actors() {
    let c = shared();
    let ns = c.0.namespace("cap");
    let extra = c.0.extra_replica(&["--actors-per-namespace", "2"]);
    let url = format!("{}{}", c.replica(extra.1), ns.actors());
    let create = |name: &str| {
        let direct = Direct::proxy(&c).by_admin();
        direct.send(Method::POST, &url, "application/json", actor(name))
    };
    for name in ["a", "b"] {
        let made = create(name);
        assert_eq!(made.code, 201, "{}", made.text);
    }
    let refused = create("c");
    assert_eq!(refused.code, 403, "{}", refused.text);
    assert_eq!(refused.body["reason"], "Forbidden");
    let said = format!(
        r#"actors.runtime.ate.dev "c" is forbidden: exceeded quota: namespace {} has its 2 actors, and may have no more; delete some first"#,
        ns.1
    );
    assert_eq!(refused.body["message"], said);
    let about = json!({"name": "c", "group": "runtime.ate.dev", "kind": "actors"});
    assert_eq!(refused.body["details"], about);
    ns.kubectl(&["delete", "actor", "a"]);
    eventually("there is room again", || {
        (create("c").code == 201).then_some(())
    });
}

#[test]
fn each_write_leaves_a_line() {
    let c = shared();
    let ns = c.0.namespace("audit");
    ns.actor("a");
    ns.kubectl(&["label", "actor", "a", "x=1"]);
    ns.kubectl(&["get", "actor", "a"]);
    let twice = ns.try_pipe(&["create", "-f", "-"], &actor("a"));
    assert!(twice.is_err());
    ns.kubectl(&["delete", "actor", "a"]);
    let lines = || {
        let all = (0..super::harness::REPLICAS).map(|n| c.log(n));
        let all: Vec<String> = all
            .flat_map(|l| l.lines().map(str::to_owned).collect::<Vec<_>>())
            .collect();
        let ours = |l: &String| l.contains("audit: write") && l.contains(&ns.1);
        all.into_iter().filter(ours).collect::<Vec<_>>()
    };
    let all = eventually("four lines are written", || {
        let all = lines();
        (all.len() >= 4).then_some(all)
    });
    assert_eq!(all.len(), 4, "reads leave none: {all:#?}");
    for (verb, code) in [
        ("create", "201"),
        ("create", "409"),
        ("patch", "200"),
        ("delete", "200"),
    ] {
        let parts = [
            format!("verb=\"{verb}\""),
            format!("code={code}"),
            "door=\"rest\"".to_owned(),
            "user=\"admin\"".to_owned(),
            "request=".to_owned(),
        ];
        let found = all.iter().any(|l| parts.iter().all(|p| l.contains(p)));
        assert!(found, "{verb} {code}: {all:#?}");
    }
}

/// Discovery says nothing of watch: who watches everything there is passes over actors; who knows them watches them.
#[test]
fn watch_may_be_left_out_of_discovery() {
    let c = alone();
    let ns = c.0.namespace("unwatched");
    let extra = c.0.extra_replica(&["--hide-actor-watch"]);
    ns.actor("a");
    c.route(&[extra.1]);
    let verbs = |what: &str| -> Option<Value> {
        let said = c.try_kubectl(&["get", "--raw", "/apis/runtime.ate.dev/v1alpha1"]);
        let list: Value = serde_json::from_str(&said.ok()?).ok()?;
        let mut all = list["resources"].as_array()?.iter();
        Some(all.find(|r| r["name"] == what)?["verbs"].clone())
    };
    eventually("discovery is the new replica's", || {
        let without = [
            "create",
            "delete",
            "deletecollection",
            "get",
            "list",
            "patch",
            "update",
        ];
        (verbs("actors")? == json!(without)).then_some(())
    });
    assert_eq!(verbs("workers"), Some(json!(["get", "list", "watch"])));
    // kube-apiserver keeps the aggregated form for a minute, unless the APIService changes.
    let now = format!("test={:08x}", rand::random::<u32>());
    c.kubectl(&["label", API_SERVICE, &now, "--overwrite"]);
    eventually("the aggregated form is too", || {
        let said = c.kubectl(&["api-resources", "--api-group=runtime.ate.dev", "-o", "wide"]);
        let actors = said.lines().find(|l| l.starts_with("actors "))?;
        (!actors.contains("watch")).then_some(())
    });
    let timeout = "--timeout=60s";
    ns.kubectl(&[
        "wait",
        "--for=jsonpath={.status.phase}=Suspended",
        "actor/a",
        timeout,
    ]);
    c.kubectl(&["delete", "namespace", &ns.1, timeout]);
    assert_eq!(ns.kubectl(&["get", "actors", "-o", "name"]).trim(), "");
    c.route(&[0, 1]);
    c.kubectl(&["label", API_SERVICE, "test-"]);
}
