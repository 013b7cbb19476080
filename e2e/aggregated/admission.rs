//! What our controller says of templates and pools when they are written, asked by a real kube-apiserver.

use super::certs::PutBack;
use super::controller::Controller;
use super::harness::{Cluster, Namespace, alone, eventually, free_port, kill, root};
use crate::parts::look::text;
use serde_json::{Value, json};
use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

const NO_POOL: &str = "Warning: no WorkerPool fits this template yet; actors wait for one";

/// The webhooks, with their Service on the host.
struct Webhooks(&'static Cluster);

impl Webhooks {
    fn at(cluster: &'static Cluster, port: u16) -> Self {
        let this = Self(cluster);
        let folder = root("config/webhook");
        cluster.kubectl(&["apply", "-k", folder.to_str().unwrap()]);
        let unselect = r#"[{"op": "remove", "path": "/spec/selector"}]"#;
        let service = ["service", "ate-controller", "--type=json", "-p", unselect];
        cluster.kubectl(&[&["-n", "ate-system", "patch"], &service[..]].concat());
        let endpoints = json!({
            "apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"name": "ate-controller", "namespace": "ate-system"},
            "subsets": [{"addresses": [{"ip": cluster.host()}], "ports": [{"name": "webhooks", "port": port}]}],
        });
        cluster.apply(&endpoints.to_string());
        this
    }
}

impl Drop for Webhooks {
    fn drop(&mut self) {
        let folder = root("config/webhook");
        let folder = folder.to_str().unwrap();
        self.0
            .kubectl(&["delete", "--ignore-not-found", "-k", folder]);
    }
}

fn object(kind: &str, name: &str, spec: Value) -> String {
    let metadata = json!({"name": name});
    json!({"apiVersion": "ate.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})
        .to_string()
}

fn template(name: &str, more: Value) -> String {
    let image = format!("example.org/a@sha256:{}", "0".repeat(64));
    let mut spec = json!({"containers": [{"name": "c", "image": image}]});
    let more = more.as_object().unwrap().clone();
    spec.as_object_mut().unwrap().extend(more);
    object("ActorTemplate", name, spec)
}

/// What kubectl says, on both its outputs.
fn kubectl(ns: &Namespace, args: &[&str], object: &str) -> Result<String, String> {
    let mut kubectl = ns.client();
    kubectl.args(args).args(["-f", "-"]).stdin(Stdio::piped());
    kubectl.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = kubectl.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(object.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|o| text(&o)).concat();
    match output.status.success() {
        true => Ok(said),
        false => Err(said),
    }
}

fn apply(ns: &Namespace, object: &str) -> Result<String, String> {
    kubectl(ns, &["apply"], object)
}

/// What would be said.
fn ask(ns: &Namespace, object: &str) -> Result<String, String> {
    kubectl(ns, &["apply", "--dry-run=server"], object)
}

#[test]
fn what_is_wrong_is_said_when_it_is_written() {
    let c = alone();
    let ns = c.0.namespace("admission");
    let _put_back = PutBack(c.0);
    let port = free_port(&c.host());
    let _webhooks = Webhooks::at(c.0, port);
    let listen = format!("--listen-webhooks={}:{port}", c.host());
    let flags = [listen.as_str(), "--worker-image=example.org/ate:1"];
    let mut controller = Controller::issuing(c.0, "judging", &flags);
    eventually("kube-apiserver asks", || {
        let said = ask(&ns, &template("first", json!({}))).unwrap();
        said.contains(NO_POOL).then_some(())
    });

    // What the definition cannot say.
    let wrong = template("wrong", json!({"idle": {"suspendAfter": "soon"}}));
    let said = apply(&ns, &wrong).unwrap_err();
    assert!(
        said.contains("denied the request: spec.idle.suspendAfter: "),
        "{said}"
    );
    let elsewhere = template("elsewhere", json!({"workerPoolRef": {"name": "p"}}));
    let said = ask(&ns, &elsewhere).unwrap();
    assert!(said.contains("there is no WorkerPool p yet"), "{said}");

    // Pools, also when they change.
    let pool = |image: &str| {
        object(
            "WorkerPool",
            "p",
            json!({"replicas": 0, "ateomImage": image}),
        )
    };
    let said = apply(&ns, &pool("example.org/foreign:1")).unwrap_err();
    assert!(said.contains("does not let pools name"), "{said}");
    let said = apply(&ns, &pool("example.org/ateom-gvisor:1")).unwrap();
    assert!(said.contains("does not speak our node protocol"), "{said}");
    apply(&ns, &pool("example.org/foreign:1")).unwrap_err();
    eventually("the controller knows the pool", || {
        let late = template("late", json!({"workerPoolRef": {"name": "p"}}));
        let said = ask(&ns, &late).unwrap();
        (!said.contains("Warning")).then_some(())
    });

    // Away, it keeps nobody from anything. What is wrong already can be labelled.
    kill(&mut controller.child);
    let began = Instant::now();
    apply(&ns, &pool("example.org/foreign:1")).unwrap();
    assert!(began.elapsed() < Duration::from_secs(10));
    let _controller = Controller::issuing(c.0, "judging-again", &flags);
    eventually("kube-apiserver asks again", || {
        ask(&ns, &pool("example.org/foreign:2")).err()
    });
    ns.kubectl(&["label", "workerpool", "p", "a=b"]);
    ns.kubectl(&["scale", "workerpool", "p", "--replicas=0"]);
}
