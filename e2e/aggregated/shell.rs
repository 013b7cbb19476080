//! A pod on the node of a cluster that is not ours: sees the node's processes and addresses of Services, as our own machine does of a
//! cluster of ours.

use super::harness::Cluster;
use crate::parts::look::KUBECTL;
use serde_json::json;
use std::path::Path;
use std::process::Command;

const NAMESPACE: &str = "ate-e2e";
const POD: &str = "node";

/// Makes the pod, and waits until it runs. It stays, for the next time.
pub fn start(cluster: &Cluster, image: &str) {
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "privileged"}},
    });
    let container = json!({
        "name": POD, "image": image, "command": ["sleep", "1000000000"], "securityContext": {"privileged": true},
    });
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": POD, "namespace": NAMESPACE},
        "spec": {"hostPID": true, "hostNetwork": true, "terminationGracePeriodSeconds": 0, "containers": [container]},
    });
    for object in [namespace, pod] {
        cluster.apply(&object.to_string());
    }
    let pod = format!("pod/{POD}");
    let wait = ["wait", &pod, "--for=condition=Ready", "--timeout=120s"];
    cluster.kubectl(&[&["-n", NAMESPACE][..], &wait].concat());
}

/// Runs a program of the pod; arguments follow.
pub fn inside(cluster: &Cluster, program: &str) -> Command {
    let mut command = cluster.client(KUBECTL);
    command.args(["-n", NAMESPACE, "exec", POD, "--", program]);
    command
}

/// Runs a program of the node; it follows.
pub fn on_node(cluster: &Cluster) -> Command {
    let mut command = inside(cluster, "nsenter");
    command.args(["-t", "1", "-m", "-p", "-n", "-u", "-i", "--"]);
    command
}

/// Puts a file or directory at a path of the pod.
pub fn copy(cluster: &Cluster, from: &Path, to: &str) {
    let to = format!("{NAMESPACE}/{POD}:{to}");
    cluster.kubectl(&["cp", from.to_str().unwrap(), &to]);
}
