//! The door for node agents.

use super::world::world;
use crate::parts::look::outcome;

#[test]
fn a_node_agent_speaks_for_its_own_node_only() {
    let w = world();
    let pod = w.kubectl_system(&["get", "pod", "-l", "app=atelet", "-o", "name"]);
    let pod = pod.trim().strip_prefix("pod/").unwrap();
    let token = |bound: &[&str]| {
        let audience = ["--audience", "api.ate-system.svc"];
        let create = ["create", "token", "atelet"];
        let token = w.kubectl_system(&[&create[..], &audience, bound].concat());
        token.trim().to_owned()
    };
    let of_pod = token(&["--bound-object-kind", "Pod", "--bound-object-name", pod]);
    let report = |secret: &str, token: Option<&str>| {
        let mut grpcurl = w.grpcurl(secret);
        if let Some(token) = token {
            let header = format!("authorization: Bearer {token}");
            grpcurl.args(["-H", &header]);
        }
        let report = r#"{"node": "another", "address": "192.0.2.1:8443"}"#;
        let door = w.grpc();
        grpcurl.args(["-d", report, &door, "atenode.Nodes/Report"]);
        outcome("report", &grpcurl.output().unwrap()).unwrap_err()
    };
    for (secret, token, said) in [
        (
            "atelet-tls",
            Some(of_pod.as_str()),
            "the token is of a pod on node",
        ),
        ("atelet-tls", Some(token(&[]).as_str()), "bound to no node"),
        ("atelet-tls", None, "send the token of the node agent's pod"),
        (
            "ate-router-tls",
            Some(of_pod.as_str()),
            "this is for atelet, not for router",
        ),
    ] {
        let refused = report(secret, token);
        assert!(refused.contains(said), "{refused}");
    }
}
