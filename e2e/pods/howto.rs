//! What guides of existing users tell to do, step by step, with how long each step took. `make e2e` shows the table.

use super::world::{NAMESPACE as TEAM, World, host, world};
use crate::parts::look::outcome;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Where the guide's objects are.
const NAMESPACE: &str = "kagent";
/// Who calls by gRPC.
const CALLER: &str = "kagent-controller";
/// What calls are for.
const AUDIENCE: &str = "api.ate-system.svc";

/// The image of the template that is there, pinned as a guide's is.
const IMAGE: &str = "jsonpath={.spec.containers[0].image}";

/// What of ours runs in an installation.
const OURS: [&str; 4] = ["apiserver", "controller", "router", "atelet"];
/// How long they are looked at.
const REST: Duration = Duration::from_secs(10);

/// Steps that were done.
struct Walk<'a> {
    w: &'a World,
    table: String,
    began: Instant,
}

impl<'a> Walk<'a> {
    fn new(w: &'a World) -> Self {
        Walk {
            w,
            table: String::new(),
            began: Instant::now(),
        }
    }

    /// One more is done.
    fn done(&mut self, what: &str) {
        self.took(self.began.elapsed().as_secs_f64(), what);
        self.began = Instant::now();
    }

    fn took(&mut self, seconds: f64, what: &str) {
        self.table.push_str(&format!("{seconds:8.1} s  {what}\n"));
    }

    #[track_caller]
    fn kubectl(&self, args: &[&str]) -> String {
        self.w.kubectl_in(NAMESPACE, args)
    }

    fn phase(&self, actor: &str) -> String {
        let actor = format!("actor/{actor}");
        let phase = ["get", &actor, "-o", "jsonpath={.status.phase}"];
        self.kubectl(&phase)
    }

    /// A request through the router's Service from another pod.
    #[track_caller]
    fn ask(&self, actor: &str) -> String {
        let host = format!("Host: {}", host(actor, NAMESPACE));
        let run = ["run", "asker", "--image=localhost/busybox:1"];
        let run = [
            &run[..],
            &["--restart=Never", "--rm", "--attach", "--quiet"],
        ]
        .concat();
        let curl = ["--", "curl", "-sS", "-m", "60", "-H", &host];
        let url = "http://atenet-router.ate-system.svc/";
        self.kubectl(&[&run[..], &curl, &[url]].concat())
    }

    /// A call of `ateapi.Control` with a token, found by reflection.
    #[track_caller]
    fn call(&self, token: &str, method: &str, request: &Value) -> Value {
        let header = format!("authorization: Bearer {token}");
        let mut grpcurl = self.w.grpcurl_as_client();
        grpcurl.args(["-H", &header, "-d", &request.to_string()]);
        grpcurl.args([&self.w.grpc(), &format!("ateapi.Control/{method}")]);
        let said = outcome(method, &grpcurl.output().unwrap());
        serde_json::from_str(&said.unwrap_or_else(|e| panic!("{e}"))).unwrap()
    }
}

fn pool() -> Value {
    json!({
        "apiVersion": "ate.dev/v1alpha1", "kind": "WorkerPool",
        "metadata": {"name": "kagent-default", "namespace": NAMESPACE},
        "spec": {"replicas": 1, "ateomImage": "localhost:5001/ateom-gvisor:head"},
    })
}

fn template(image: &str) -> Value {
    let pause = format!("registry.k8s.io/pause:3.10@sha256:{}", "0".repeat(64));
    json!({
        "apiVersion": "ate.dev/v1alpha1", "kind": "ActorTemplate",
        "metadata": {"name": "hello", "namespace": NAMESPACE},
        "spec": {
            "pauseImage": pause,
            "containers": [{"name": "app", "image": image, "env": [{"name": "PORT", "value": "80"}]}],
            "workerPoolRef": {"name": "kagent-default", "namespace": NAMESPACE},
            "snapshotsConfig": {"location": "s3://snapshots/kagent"},
        },
    })
}

/// What may call, as the guide's installation binds it, and may list.
fn rights() -> [Value; 3] {
    let role = "ate:kagent-e2e";
    let rules = json!([
        {"apiGroups": ["runtime.ate.dev"], "resources": ["actors"], "verbs": ["get", "list"]},
        {"apiGroups": ["runtime.ate.dev"], "resources": ["actors/resume", "actors/suspend"], "verbs": ["create"]},
    ]);
    let group = "rbac.authorization.k8s.io";
    [
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": CALLER, "namespace": NAMESPACE}}),
        json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRole", "metadata": {"name": role}, "rules": rules}),
        json!({
            "apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": role},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": CALLER, "namespace": NAMESPACE}],
        }),
    ]
}

fn actor(name: &str) -> Value {
    json!({
        "apiVersion": "runtime.ate.dev/v1alpha1", "kind": "Actor",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"templateRef": {"name": "hello"}},
    })
}

#[test]
fn the_guide_of_existing_users_works() {
    let w = world();
    let mut walk = Walk::new(&w);
    walk.took(
        w.installed.as_secs_f64(),
        "Helm install until all is ready; images were there",
    );
    w.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}));
    w.apply(&pool());
    walk.kubectl(&[
        "wait",
        "workerpool/kagent-default",
        "--for=jsonpath={.status.replicas}=1",
        "--timeout=60s",
    ]);
    walk.done("WorkerPool with one replica");
    let image = w.kubectl_in(TEAM, &["get", "actortemplate/counter", "-o", IMAGE]);
    w.apply(&template(&image));
    walk.kubectl(&[
        "wait",
        "actortemplate/hello",
        "--for=condition=Ready",
        "--timeout=120s",
    ]);
    walk.done("ActorTemplate to Ready");
    for right in rights() {
        w.apply(&right);
    }
    w.apply(&actor("first"));
    let said = walk.ask("first");
    assert!(said.contains(r#""memory":1"#), "{said}");
    walk.done("Actor applied; first request through the router's Service from another pod");
    let audience = format!("--audience={AUDIENCE}");
    let token = walk.kubectl(&["create", "token", CALLER, &audience]);
    let id = format!("first.{NAMESPACE}");
    walk.call(token.trim(), "SuspendActor", &json!({"actor_id": id}));
    assert_eq!(walk.phase("first"), "Suspended");
    walk.done("token of the ServiceAccount; suspended again");
    let listed = walk.call(token.trim(), "ListActors", &json!({}));
    assert!(listed.to_string().contains(&id), "{listed}");
    let resumed = walk.call(token.trim(), "ResumeActor", &json!({"actor_id": id}));
    assert_eq!(resumed["actor"]["status"], "STATUS_RUNNING", "{resumed}");
    assert!(walk.ask("first").contains(r#""memory":2"#));
    walk.done("ListActors, ResumeActor, and what it remembers");
    walk.kubectl(&["scale", "workerpool/kagent-default", "--replicas=3"]);
    walk.kubectl(&[
        "wait",
        "workerpool/kagent-default",
        "--for=jsonpath={.status.replicas}=3",
        "--timeout=60s",
    ]);
    w.apply(&actor("second"));
    assert!(walk.ask("second").contains(r#""memory":1"#));
    walk.done("scaled to three; a second Actor answers");
    walk.kubectl(&["delete", "namespace", NAMESPACE, "--timeout=60s"]);
    walk.done("namespace deleted with all of it");
    if std::env::var_os("E2E_TABLE").is_some() {
        println!("{}\n{}", walk.table, at_rest(&w));
    }
}

/// What our processes take while nobody wants anything.
fn at_rest(w: &World) -> String {
    let look = || OURS.map(|name| w.costs(&format!("ate {name} -")).unwrap());
    let before = look();
    std::thread::sleep(REST);
    let lines = OURS.iter().zip(before.iter().zip(look()));
    let lines = lines.map(|(name, ((_, before), (pss, after)))| {
        // A tick is 10 ms.
        let share = (after - before) as f64 / REST.as_secs_f64();
        let memory = pss as f64 / 1024.0;
        format!("{memory:6.1} MiB {share:5.1} %  {name}, one of them, PSS and of one core over {REST:?}\n")
    });
    lines.collect()
}
