//! Kubernetes takes what the charts and `config/` say, and our pods are restricted ones.

use super::harness::{Cluster, eventually, shared};
use crate::charts::{ELSEWHERE, MORE, kustomized, pods, templated};
use serde_json::{Value, json};

fn dry_run(c: &Cluster, yaml: &str) {
    let said = c.pipe(
        &[
            "apply",
            "--server-side",
            "--force-conflicts",
            "--dry-run=server",
            "--field-manager=charts",
            "-f",
            "-",
        ],
        yaml,
    );
    let objects = yaml.lines().filter(|l| l.starts_with("kind: ")).count();
    let applied = said.matches("serverside-applied (server dry run)").count();
    assert_eq!(applied, objects, "{said}");
}

#[test]
fn kubernetes_takes_the_charts_and_config() {
    let c = shared();
    dry_run(c.0, &kustomized());
    dry_run(c.0, &templated("substrate-crds", &[]).unwrap());
    for values in [&[], MORE, ELSEWHERE] {
        dry_run(c.0, &templated("substrate", values).unwrap());
    }
}

#[test]
fn our_pods_are_restricted() {
    let c = shared();
    let ns = c.0.namespace("restricted");
    let label = "pod-security.kubernetes.io/enforce=restricted";
    c.kubectl(&["label", "namespace", &ns.1, label]);
    eventually("the namespace takes pods", || {
        ns.try_kubectl(&["get", "serviceaccount", "default"]).ok()
    });
    let create =
        |pod: &Value| ns.try_pipe(&["create", "--dry-run=server", "-f", "-"], &pod.to_string());
    // A StatefulSet's claims become volumes only in its pods.
    let without_claims = [
        "store.bundled.persistence.enabled=false",
        "objects.bundled.persistence.enabled=false",
    ];
    let all = pods(&templated("substrate", &without_claims).unwrap());
    assert_eq!(all.len(), 6);
    // What a node agent has to do, no restricted pod can.
    for (name, template) in all.into_iter().filter(|(name, _)| name != "atelet") {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": template["spec"]});
        // There is none of these here.
        pod["spec"]
            .as_object_mut()
            .unwrap()
            .remove("serviceAccountName");
        create(&pod).unwrap();
        pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = true.into();
        let refused = create(&pod).unwrap_err();
        assert!(refused.contains("violates PodSecurity"), "{refused}");
    }
}
