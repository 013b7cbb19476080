//! What an installation sets: how many actors a namespace may have, whether discovery says that they can be watched; and
//! what is written down of each write.

use super::direct::Direct;
use super::harness::{actor, alone, eventually, shared};
use super::teams::{call, team};
use http::Method;
use serde_json::{Value, json};

const API_SERVICE: &str = "apiservice/v1alpha1.runtime.ate.dev";

/// What ResourceQuota would say, which kube-apiserver does not ask for kinds that it forwards.
#[test]
fn a_namespace_has_a_cap_of_actors() {
    let c = shared();
    let team = team(&c, "cap");
    let ns = &team.namespace;
    ns.template();
    let limit = |n: usize| {
        let said = format!("ate.dev/max-actors={n}");
        c.kubectl(&["annotate", "namespace", &ns.1, &said, "--overwrite"]);
    };
    let create = |name: &str| ns.try_pipe(&["create", "-f", "-"], &actor(name));
    limit(0);
    let direct = Direct::proxy(&c).by_admin();
    let refuses = |n: usize, name: &str| {
        let url = format!("{}{}", c.replica(n), ns.actors());
        let answer = direct.send(Method::POST, &url, "application/json", actor(name));
        answer.code == 403
    };
    eventually("one replica knows the cap", || {
        refuses(0, "x").then_some(())
    });
    eventually("so does the other", || refuses(1, "y").then_some(()));
    ns.kubectl(&["delete", "actors", "--all"]);

    let refused = create("a").unwrap_err();
    let said = format!(
        r#"actors.runtime.ate.dev "a" is forbidden: exceeded quota: namespace {} has its 0 actors, and may have no more; delete some first"#,
        ns.1
    );
    assert!(
        refused.contains("(Forbidden)") && refused.contains(&said),
        "{refused}"
    );
    let id = format!("flat-{:08x}", rand::random::<u32>());
    let request =
        json!({"actor_id": id, "actor_template_namespace": ns.1, "actor_template_name": "counter"});
    eventually("the other door refuses it too", || {
        let refused = call(&c, Some(&team.token), "CreateActor", &request).unwrap_err();
        refused.contains("ResourceExhausted").then_some(())
    });
    limit(2);
    eventually("there is room", || create("a").ok());
    eventually("there is room", || create("b").ok());
    for dry_run in ["none", "server"] {
        let dry_run = format!("--dry-run={dry_run}");
        let refused = ns.try_pipe(&["create", "-f", "-", &dry_run], &actor("c"));
        let refused = refused.unwrap_err();
        assert!(refused.contains("has its 2 actors"), "{refused}");
    }
    ns.kubectl(&["delete", "actor", "a"]);
    let dry = ["create", "-f", "-", "--dry-run=server"];
    eventually("there would be room", || {
        ns.try_pipe(&dry, &actor("c")).ok()
    });
    eventually("there is room again", || create("c").ok());
}

#[test]
fn each_write_leaves_a_line() {
    let c = shared();
    let team = team(&c, "audit");
    let ns = &team.namespace;
    ns.template();
    ns.actor("a");
    ns.kubectl(&["label", "actor", "a", "x=1"]);
    ns.kubectl(&["get", "actor", "a"]);
    let twice = ns.try_pipe(&["create", "-f", "-"], &actor("a"));
    assert!(twice.is_err());
    ns.kubectl(&["delete", "actor", "a"]);
    let id = format!("flat-{:08x}", rand::random::<u32>());
    let request =
        json!({"actor_id": id, "actor_template_namespace": ns.1, "actor_template_name": "counter"});
    eventually("the team may create", || {
        call(&c, Some(&team.token), "CreateActor", &request).ok()
    });
    let lines = |by: &str| -> Vec<String> {
        let all: String = (0..super::harness::REPLICAS).map(|n| c.log(n)).collect();
        let ours = |l: &&str| ["audit: write", &ns.1, by].iter().all(|p| l.contains(p));
        all.lines().filter(ours).map(str::to_owned).collect()
    };
    let admin = eventually("four lines are written", || {
        let all = lines(r#"user="admin""#);
        (all.len() >= 4).then_some(all)
    });
    assert_eq!(admin.len(), 4, "reads leave none: {admin:#?}");
    let robot = lines(&format!(r#"user="system:serviceaccount:{}:robot""#, ns.1));
    for (all, door, verb, code) in [
        (&admin, "rest", "create", "201"),
        (&admin, "rest", "create", "409"),
        (&admin, "rest", "patch", "200"),
        (&admin, "rest", "delete", "200"),
        (&robot, "grpc", "create", "0"),
    ] {
        let parts = [
            format!(r#"door="{door}""#),
            format!(r#"verb="{verb}""#),
            format!("code={code} "),
            "request=".to_owned(),
        ];
        let found = all.iter().any(|l| parts.iter().all(|p| l.contains(p)));
        assert!(found, "{door} {verb} {code}: {all:#?}");
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
