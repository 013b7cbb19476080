//! What our controller says of templates and pools when they are written, asked by a real kube-apiserver.

use super::certs::PutBack;
use super::controller::Controller;
use super::harness::{Cluster, Namespace, alone, eventually, free_port, kill, root};
use crate::charts::{objects, templated};
use crate::parts::look::text;
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

const NO_POOL: &str = "Warning: no WorkerPool fits this template yet; actors wait for one";

/// A folder of `config/`, applied; goes with it.
struct Installed(&'static Cluster, PathBuf);

impl Installed {
    fn folder(cluster: &'static Cluster, folder: &str) -> Self {
        let folder = root(folder);
        cluster.kubectl(&["apply", "-k", folder.to_str().unwrap()]);
        Self(cluster, folder)
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let folder = self.1.to_str().unwrap();
        let args = ["delete", "--ignore-not-found", "-k", folder];
        self.0.kubectl(&args);
    }
}

/// The webhooks, with their Service at a port of the host.
fn webhooks(cluster: &'static Cluster, port: u16) -> Installed {
    let installed = Installed::folder(cluster, "config/webhook");
    let unselect = r#"[{"op": "remove", "path": "/spec/selector"}]"#;
    let service = ["service", "ate-controller", "--type=json", "-p", unselect];
    cluster.kubectl(&[&["-n", "ate-system", "patch"], &service[..]].concat());
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "ate-controller", "namespace": "ate-system"},
        "subsets": [{"addresses": [{"ip": cluster.host()}], "ports": [{"name": "webhooks", "port": port}]}],
    });
    cluster.apply(&endpoints.to_string());
    installed
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
    let _webhooks = webhooks(c.0, port);
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

    // What it takes from Secrets.
    let env = json!([{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]);
    let image = format!("example.org/a@sha256:{}", "0".repeat(64));
    let container = json!({"name": "app", "image": image, "env": env});
    let secretive = template("secretive", json!({"containers": [container]}));
    let said = ask(&ns, &secretive).unwrap();
    let missing = format!("secretKeyRef: there is no Secret {}/s;", ns.1);
    assert!(said.contains(&missing), "{said}");
    ns.kubectl(&["create", "secret", "generic", "s", "--from-literal=k=v"]);
    let said = ask(&ns, &secretive).unwrap();
    assert!(!said.contains("secretKeyRef"), "{said}");

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
    assert!(began.elapsed() < Duration::from_secs(30));
    let _controller = Controller::issuing(c.0, "judging-again", &flags);
    eventually("kube-apiserver asks again", || {
        ask(&ns, &pool("example.org/foreign:2")).err()
    });
    ns.kubectl(&["label", "workerpool", "p", "a=b"]);
    ns.kubectl(&["scale", "workerpool", "p", "--replicas=0"]);
}

#[test]
fn templates_name_only_what_the_operator_allows() {
    let c = alone();
    let ns = c.0.namespace("allowed");
    let folder = || Installed::folder(c.0, "config/policy");
    drop(folder());
    let _policy = folder();
    let image = |name: &str| {
        let image = format!("{name}@sha256:{}", "0".repeat(64));
        json!({"containers": [{"name": "c", "image": image}]})
    };
    let location = |place: &str| json!({"snapshotsConfig": {"location": place}});
    let runtime = |digit: &str| {
        let sum = digit.repeat(64);
        json!({"runsc": {"amd64": {"url": "https://a.example/runsc", "sha256Hash": sum}}})
    };
    let taken = |more: Value| ask(&ns, &template("t", more));
    let own = format!("s3://bucket/{}", ns.1);

    // What kube-apiserver thinks of the expressions, for our definition.
    let policy = "validatingadmissionpolicy/ate-templates";
    eventually("the policy is looked at", || {
        let seen = c.field("default", policy, ".status.observedGeneration");
        (seen == "1").then_some(())
    });
    let warnings = c.field("default", policy, ".status.typeChecking");
    assert!(["", "{}"].contains(&warnings.as_str()), "{warnings}");

    taken(image("anywhere.example/a")).unwrap();
    let lists = [
        "allowed.images[0]=a.example/team",
        "allowed.images[1]=b.example/",
        "allowed.snapshots[0]=s3://bucket/{namespace}",
        &format!("allowed.runtimes[0]={}", "1".repeat(64)),
    ];
    let chart = objects(&templated("substrate", &lists).unwrap());
    c.apply(&chart["ValidatingAdmissionPolicy - ate-templates"].to_string());
    eventually("the lists are known", || {
        let each = [
            image("other.example/a"),
            location("s3://other"),
            runtime("2"),
        ];
        each.into_iter().all(|e| refused(&taken, e)).then_some(())
    });
    for good in [
        image("a.example/team"),
        image("a.example/team/a"),
        image("a.example/team:1"),
        image("b.example/x/y"),
    ] {
        taken(good).unwrap();
    }
    for bad in ["a.example/teams", "a.example", "b.example.com/a"] {
        let said = taken(image(bad)).unwrap_err();
        let wanted = "images must begin with a.example/team or b.example/";
        assert!(said.contains(wanted), "{said}");
    }
    let mut both = image("b.example/a");
    for (place, good) in [
        (own.clone(), true),
        (format!("{own}/deeper"), true),
        (format!("{own}er"), false),
        ("s3://bucket/other".to_owned(), false),
    ] {
        both["snapshotsConfig"] = location(&place)["snapshotsConfig"].clone();
        assert_eq!(taken(both.clone()).is_ok(), good, "{place}");
    }
    let mut both = image("b.example/a");
    both["runsc"] = runtime("1")["runsc"].clone();
    taken(both.clone()).unwrap();
    both["runsc"]["arm64"] = runtime("2")["runsc"]["amd64"].clone();
    let said = taken(both).unwrap_err();
    assert!(said.contains("this runtime is not allowed"), "{said}");
}

fn refused(taken: &impl Fn(Value) -> Result<String, String>, what: Value) -> bool {
    taken(what).is_err()
}
