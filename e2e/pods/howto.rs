//! What guides of existing users tell to do, step by step, with how long each step took. `make e2e` shows the table.

use super::world::{NAMESPACE as TEAM, World, shows_table, world};
use crate::aggregated::{build, eventually};
use crate::parts::look::{outcome, until};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// Where the guide's objects are.
const NAMESPACE: &str = "kagent";
/// Who calls by gRPC.
const CALLER: &str = "kagent-controller";
/// What calls are for.
const AUDIENCE: &str = "api.ate-system.svc";

/// The image of the template that is there, pinned as a guide's is.
const IMAGE: &str = "jsonpath={.spec.containers[0].image}";
/// The builds that kagent names unless it is told otherwise.
const NIGHTLY: [&str; 2] = [
    "a397be1abc2420d26bce6c70e6e2ff96c73aaaab929756c56f5e2089ea842b63",
    "1ba2366ae2efceba166046f51a4104f9261c9cb72c6db8f5b3fe2dc57dea86b9",
];
/// Where they are.
const RELEASES: &str = "gs://gvisor/releases/nightly/2026-05-19";

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

    /// `kubectl ate suspend`.
    #[track_caller]
    fn suspend(&self, actor: &str) {
        let mut plugin = self.w.client(env!("CARGO_BIN_EXE_kubectl-ate"));
        plugin.args(["suspend", actor, "-n", NAMESPACE]);
        let said = outcome("kubectl ate suspend", &plugin.output().unwrap());
        said.unwrap_or_else(|e| panic!("{e}"));
    }

    /// A request through the router's Service from another pod.
    #[track_caller]
    fn ask(&self, actor: &str) -> String {
        self.w.ask_from_pod(actor, NAMESPACE)
    }

    /// A call of `ateapi.Control` with a token, found by reflection.
    #[track_caller]
    fn call(&self, token: &str, method: &str, request: &Value) -> Value {
        let header = format!("authorization: Bearer {token}");
        let mut grpcurl = self.w.grpcurl_as_client();
        grpcurl.args(["-H", &header, "-d", &request.to_string()]);
        let door = self.w.grpc();
        grpcurl.args([&*door, &format!("ateapi.Control/{method}")]);
        let said = outcome(method, &grpcurl.output().unwrap());
        serde_json::from_str(&said.unwrap_or_else(|e| panic!("{e}"))).unwrap()
    }
}

/// The pool that kagent's chart (0.9.7) makes.
fn pool() -> Value {
    json!({
        "apiVersion": "ate.dev/v1alpha1", "kind": "WorkerPool",
        "metadata": {
            "name": "kagent-default", "namespace": NAMESPACE,
            "labels": {"kagent.dev/worker-pool": "kagent-default"},
        },
        "spec": {"replicas": 1, "ateomImage": "ghcr.io/kagent-dev/substrate/ateom-gvisor:v0.0.9"},
    })
}

/// The template that kagent (0.9.7) makes of an agent, with its defaults, of this image and these builds of the runtime.
fn template(image: &str, [amd64, arm64]: [&str; 2]) -> Value {
    let pause = "registry.k8s.io/pause:3.10.2@sha256:f548e0e8e3dc1896ca956272154dde3314e8cc4fde0a57577ee9fa1c63f5baf4";
    let build = |arch, sum| json!({"url": format!("{RELEASES}/{arch}/runsc"), "sha256Hash": sum});
    json!({
        "apiVersion": "ate.dev/v1alpha1", "kind": "ActorTemplate",
        "metadata": {
            "name": "hello", "namespace": NAMESPACE,
            "labels": {"app.kubernetes.io/managed-by": "kagent", "kagent.dev/sandbox-agent": "hello"},
        },
        "spec": {
            "pauseImage": pause,
            "runsc": {
                "amd64": build("x86_64", amd64), "arm64": build("aarch64", arm64), "authentication": {"gcp": {}},
            },
            "containers": [{
                "name": "kagent", "image": image, "command": ["/server"],
                "env": [
                    {"name": "PORT", "value": "80"},
                    {"name": "KAGENT_CONFIG_JSON", "valueFrom": {"secretKeyRef": {"name": "hello", "key": "config.json"}}},
                    {"name": "KAGENT_SRT_SETTINGS_JSON", "valueFrom": {"secretKeyRef": {
                        "name": "hello", "key": "srt-settings.json", "optional": true,
                    }}},
                ],
            }],
            "workerPoolRef": {"name": "kagent-default", "namespace": NAMESPACE},
            "snapshotsConfig": {"location": format!("gs://ate-snapshots/{NAMESPACE}/hello")},
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

/// kagent's template, unchanged; where Google is out of reach its runtime cannot be had, which is said, and the walk goes on
/// with one that names the nodes' own build instead. Nothing else differs.
fn template_ready(walk: &mut Walk<'_>) {
    let w = walk.w;
    let image = w.kubectl_in(TEAM, &["get", "actortemplate/counter", "-o", IMAGE]);
    w.apply(&json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hello", "namespace": NAMESPACE},
        "stringData": {"config.json": "{}"},
    }));
    w.apply(&template(&image, NIGHTLY));
    let ready = eventually("it is ready, or it is said why not", || {
        let said = walk.kubectl(&["describe", "actortemplate/hello"]);
        let phase = [
            "get",
            "actortemplate/hello",
            "-o",
            "jsonpath={.status.phase}",
        ];
        let missing = said.contains("RuntimeUnavailable") && said.contains(RELEASES);
        match walk.kubectl(&phase) == "Ready" {
            true => Some(true),
            false => missing.then_some(false),
        }
    });
    if !ready {
        walk.done("ActorTemplate accepted; its runtime, at Google, cannot be had here");
        walk.kubectl(&["delete", "actortemplate/hello", "--timeout=60s"]);
        w.apply(&template(&image, [&w.runtime(), NIGHTLY[1]]));
    }
    let wait = [
        "wait",
        "actortemplate/hello",
        "--for=condition=Ready",
        "--timeout=120s",
    ];
    walk.kubectl(&wait);
    let golden = [
        "get",
        "actortemplate/hello",
        "-o",
        "jsonpath={.status.goldenSnapshot}",
    ];
    let golden = walk.kubectl(&golden);
    assert!(golden.starts_with("gs://ate-snapshots/"), "{golden}");
    walk.done("ActorTemplate to Ready");
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
    let replaced = [
        "wait",
        "workerpool/kagent-default",
        "--for=condition=ImageReplaced",
    ];
    walk.kubectl(&replaced);
    walk.done("WorkerPool with one replica");
    template_ready(&mut walk);
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
    walk.suspend("second");
    assert_eq!(walk.phase("second"), "Suspended");
    assert!(walk.ask("second").contains(r#""memory":2"#));
    walk.kubectl(&["delete", "actor/second"]);
    walk.done("by kubectl alone: suspended, woken by a request, deleted");
    walk.kubectl(&["delete", "namespace", NAMESPACE, "--timeout=60s"]);
    walk.done("namespace deleted with all of it");
    if shows_table() {
        println!("{}\n{}", walk.table, at_rest(&w));
    }
}

/// How long a client may take that was refused a few times: grpc-go waits longer after each.
const RECONNECTED: Duration = Duration::from_secs(60);

/// A gRPC client that asks until it is answered; ends with this. It says each error once.
struct Asking(Child);

impl Drop for Asking {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// API servers that are not there until this is dropped.
struct Away<'a>(&'a World);

impl<'a> Away<'a> {
    fn new(w: &'a World) -> Self {
        let away = Away(w);
        away.scale("0");
        let gone = [
            "wait",
            "pod",
            "-l",
            "app=ate-apiserver",
            "--for=delete",
            "--timeout=60s",
        ];
        w.kubectl_system(&gone);
        away
    }

    fn scale(&self, replicas: &str) {
        let replicas = format!("--replicas={replicas}");
        let scale = ["scale", "deployment/ate-api-server", &replicas];
        self.0.kubectl_system(&scale);
    }
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        self.scale("2");
    }
}

#[test]
fn a_client_that_was_there_before_our_api_connects_later() {
    let w = world();
    let away = Away::new(&w);
    let program = build("grpcclient", "e2e/grpcclient");
    let api = format!("{}:443", w.service("api"));
    let ca = w.pem("ate-apiserver-tls", "ca.crt");
    let mut client = w.beside(&program, &[&api, "api.ate-system.svc"], &[&ca]);
    let mut client = Asking(client.stdout(Stdio::piped()).spawn().unwrap());
    let mut said = BufReader::new(client.0.stdout.take().unwrap()).lines();
    let refused = said.next().unwrap().unwrap();
    assert!(refused.contains("Unavailable"), "{refused}");
    drop(away);
    until(RECONNECTED, "it is answered", || {
        client.0.try_wait().unwrap()
    });
    // Nothing is allowed to one without credentials.
    let answered = said.last().unwrap().unwrap();
    assert!(answered.contains("PermissionDenied"), "{answered}");
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
