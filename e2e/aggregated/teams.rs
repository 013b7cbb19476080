//! Team A sees and touches only its namespaces, through either door.

use super::harness::{Namespace, Shared, eventually, shared};
use crate::parts::look::text;
use serde_json::{Value, json};

/// A team: a namespace whose `edit` role a ServiceAccount in it has.
pub struct Team {
    pub namespace: Namespace,
    pub token: String,
}

pub fn team(c: &Shared, name: &str) -> Team {
    let namespace = c.0.namespace(name);
    namespace.kubectl(&["create", "serviceaccount", "robot"]);
    let who = format!("--serviceaccount={}:robot", namespace.1);
    namespace.kubectl(&["create", "rolebinding", "robot", "--clusterrole=edit", &who]);
    let token = c.token(&namespace.1, "robot", Some("api.ate-system.svc"));
    Team { namespace, token }
}

impl Team {
    fn user(&self) -> String {
        format!("system:serviceaccount:{}:robot", self.namespace.1)
    }
}

/// grpcurl with a bearer token, or none.
pub fn call(
    c: &Shared,
    token: Option<&str>,
    method: &str,
    request: &Value,
) -> Result<Value, String> {
    let ca = c.path("ours/ca.crt");
    let mut command = c.client("grpcurl");
    command
        .args(["-servername", "api.ate-system.svc", "-cacert"])
        .arg(ca);
    if let Some(token) = token {
        command.args(["-H", &format!("authorization: Bearer {token}")]);
    }
    let output = command
        .args([
            "-d",
            &request.to_string(),
            &c.grpc(0),
            &format!("ateapi.Control/{method}"),
        ])
        .output()
        .unwrap();
    match output.status.success() {
        true => Ok(serde_json::from_slice(&output.stdout).unwrap()),
        false => Err(text(&output.stderr)),
    }
}

#[test]
fn a_team_sees_and_touches_only_its_namespaces_through_rest() {
    let c = shared();
    let (a, b) = (team(&c, "team-a"), team(&c, "team-b"));
    b.namespace.actor("theirs");
    let user = a.user();
    let create = |ns: &Namespace| {
        ns.try_pipe(
            &["--as", &user, "create", "-f", "-"],
            &super::harness::actor("mine"),
        )
    };
    eventually("team A may create at home", || create(&a.namespace).ok());
    let refused = create(&b.namespace).unwrap_err();
    let said = format!(
        r#"actors.runtime.ate.dev is forbidden: User "{user}" cannot create resource "actors" in API group "runtime.ate.dev" in the namespace "{}""#,
        b.namespace.1
    );
    assert!(refused.contains(&said), "{refused}");
    let theirs = &b.namespace;
    for args in [
        &["get", "actors"][..],
        &["get", "actor", "theirs"],
        &["get", "actor", "theirs", "--subresource=status"],
        &["delete", "actor", "theirs"],
        &["delete", "actors", "--all"],
        &["label", "actor", "theirs", "x=y"],
        &["get", "workers"],
        &["get", "nodeagents"],
        &["get", "actors", "-A"],
    ] {
        let args: Vec<_> = ["--as", &user].iter().chain(args).copied().collect();
        let refused = theirs.try_kubectl(&args).unwrap_err();
        assert!(refused.contains("forbidden"), "{args:?}: {refused}");
    }
    let mine = a
        .namespace
        .kubectl(&["--as", &user, "get", "actors", "-o", "name"]);
    assert_eq!(mine.trim(), "actor.runtime.ate.dev/mine");
    for args in [
        &["get", "workers"][..],
        &["label", "actor", "mine", "x=y"],
        &["delete", "actor", "mine"],
    ] {
        let args: Vec<_> = ["--as", &user].iter().chain(args).copied().collect();
        a.namespace.kubectl(&args);
    }
}

#[test]
fn a_team_sees_and_touches_only_its_namespaces_through_grpc() {
    let c = shared();
    let (a, b) = (team(&c, "team-a"), team(&c, "team-b"));
    let flat = format!("flat-{:08x}", rand::random::<u32>());
    [&a, &b]
        .into_iter()
        .for_each(|team| team.namespace.template());
    let create = |token: &str, team: &Team, id: &str| {
        let request = json!({"actor_id": id, "actor_template_namespace": team.namespace.1, "actor_template_name": "counter"});
        call(&c, Some(token), "CreateActor", &request)
    };
    eventually("team B may create at home", || {
        create(&b.token, &b, &flat).ok()
    });
    b.namespace.actor("theirs");
    let refused = create(&a.token, &b, "mine").unwrap_err();
    assert!(
        refused.contains("PermissionDenied") && refused.contains("cannot create"),
        "{refused}"
    );

    let long = format!("theirs.{}", b.namespace.1);
    for method in [
        "GetActor",
        "UpdateActor",
        "SuspendActor",
        "PauseActor",
        "ResumeActor",
        "DeleteActor",
    ] {
        for id in [&flat, &long] {
            let refused = call(&c, Some(&a.token), method, &json!({"actor_id": id})).unwrap_err();
            assert!(
                refused.contains("PermissionDenied"),
                "{method} {id}: {refused}"
            );
            let leaks = id == &flat && refused.contains(&b.namespace.1);
            assert!(!leaks, "{method} says where {id} is: {refused}");
        }
    }
    for method in ["ListActors", "ListWorkers", "DebugClear"] {
        let refused = call(&c, Some(&a.token), method, &json!({})).unwrap_err();
        let denied = refused.contains("PermissionDenied") || refused.contains("Unimplemented");
        assert!(denied, "{method}: {refused}");
    }

    // At home the same calls are let through; what they come to is not this test's.
    let mine = eventually("team A may create at home", || {
        create(&a.token, &a, &format!("{flat}-a")).ok()
    });
    let id = json!({"actor_id": mine["actor"]["actorId"]});
    assert!(call(&c, Some(&a.token), "GetActor", &id).is_ok());
    let woken = call(&c, Some(&a.token), "ResumeActor", &id);
    assert!(
        woken.is_err_and(|e| !e.contains("PermissionDenied")),
        "nobody can run it"
    );
    assert!(
        call(&c, Some(&b.token), "GetActor", &id)
            .unwrap_err()
            .contains("PermissionDenied")
    );
    let gone = call(
        &c,
        Some(&a.token),
        "GetActor",
        &json!({"actor_id": "nobody-has-this"}),
    );
    assert!(
        gone.unwrap_err().contains("NotFound"),
        "kagent takes NotFound for deleted"
    );

    // Without credentials one is system:anonymous; with bad ones nobody.
    let anonymous = call(&c, None, "GetActor", &id).unwrap_err();
    assert!(
        anonymous.contains("PermissionDenied") && anonymous.contains("system:anonymous"),
        "{anonymous}"
    );
    let bad = call(&c, Some("nonsense"), "GetActor", &id).unwrap_err();
    assert!(bad.contains("Unauthenticated"), "{bad}");
    let who = "--clusterrole=edit --user=system:anonymous";
    let args: Vec<_> = ["create", "rolebinding", "anonymous"]
        .into_iter()
        .chain(who.split(' '))
        .collect();
    a.namespace.kubectl(&args);
    eventually("a bound anonymous client works", || {
        call(&c, None, "GetActor", &id).ok()
    });
}

/// What is for our own processes takes nobody else, whatever their rights.
#[test]
fn the_doors_between_our_processes_are_closed_to_clients() {
    let c = shared();
    let master = c.path("pki/admin.crt");
    let ca = c.path("ours/ca.crt");
    let output = c
        .client("grpcurl")
        .args(["-servername", "api.ate-system.svc", "-cacert"])
        .arg(ca)
        .arg("-cert")
        .arg(master)
        .arg("-key")
        .arg(c.path("pki/admin.key"))
        .args([
            "-d",
            r#"{"name": "x", "namespace": "y"}"#,
            &c.grpc(0),
            "atenode.Bindings/Resolve",
        ])
        .output()
        .unwrap();
    let said = text(&output.stderr);
    assert!(said.contains("Unauthenticated"), "{said}");
}
