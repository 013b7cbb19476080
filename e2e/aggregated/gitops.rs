//! What Argo CD, Flux and Helm do with actors.

use super::direct::{Answer, Direct};
use super::goclient;
use super::harness::{Cluster, Namespace, actor, eventually, shared};
use crate::parts::look::{next_second, outcome};
use http::Method;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Flux's field manager.
const FLUX: &str = "kustomize-controller";

#[derive(Debug, PartialEq, Eq)]
enum Reconciled {
    Created,
    Configured,
    Unchanged,
}

/// Flux's requests for one object (fluxcd/pkg/ssa, `ResourceManager.Apply`).
struct Flux {
    kubernetes: Direct,
    collection: String,
}

impl Flux {
    fn new(c: &Cluster, ns: &Namespace) -> Self {
        Self {
            kubernetes: Direct::kubernetes(c).header("user-agent", FLUX),
            collection: format!("{}{}", c.kubernetes(), ns.actors()),
        }
    }

    fn get(&self, name: &str) -> Option<Value> {
        let answer = self.kubernetes.get(&format!("{}/{name}", self.collection));
        (answer.code == 200).then_some(answer.body)
    }

    fn patch(&self, name: &str, query: &str, kind: &str, body: &Value) -> Answer {
        let url = format!("{}/{name}?fieldManager={FLUX}{query}", self.collection);
        let answer = self
            .kubernetes
            .send(Method::PATCH, &url, kind, body.to_string());
        assert!(answer.code / 100 == 2, "{} {}", answer.code, answer.text);
        answer
    }

    fn apply(&self, object: &Value, query: &str) -> Value {
        let name = object["metadata"]["name"].as_str().unwrap();
        let query = format!("&force=true{query}");
        self.patch(name, &query, "application/apply-patch+yaml", object)
            .body
    }

    /// Takes over what kubectl owns, so that what git no longer says goes.
    fn take_over(&self, existing: &Value) -> bool {
        let mut managers = existing["metadata"]["managedFields"].clone();
        let mut patches = vec![];
        let last = "kubectl.kubernetes.io/last-applied-configuration";
        if !existing["metadata"]["annotations"][last].is_null() {
            let path = format!("/metadata/annotations/{}", last.replace('/', "~1"));
            patches.push(json!({"op": "remove", "path": path}));
        }
        let mine = managers.as_array().into_iter().flatten();
        let known = mine.clone().any(|m| m["manager"] == FLUX);
        let by_kubectl = |m: &Value| {
            let manager = m["manager"].as_str().unwrap_or_default();
            manager.starts_with("kubectl") && m["subresource"].is_null()
        };
        let theirs = mine.filter(|m| by_kubectl(m)).count();
        // With several, Flux merges the fields; one is enough here.
        assert!(theirs <= 1 && !(known && theirs > 0), "{managers}");
        for entry in managers.as_array_mut().unwrap() {
            if by_kubectl(entry) {
                entry["manager"] = FLUX.into();
                entry["operation"] = "Apply".into();
            }
        }
        if theirs > 0 {
            let path = "/metadata/managedFields";
            patches.push(json!({"op": "replace", "path": path, "value": managers}));
        }
        let name = existing["metadata"]["name"].as_str().unwrap();
        if !patches.is_empty() {
            let kind = "application/json-patch+json";
            self.patch(name, "", kind, &Value::Array(patches.clone()));
        }
        !patches.is_empty()
    }

    fn reconcile(&self, object: &Value) -> Reconciled {
        let existing = self.get(object["metadata"]["name"].as_str().unwrap());
        let dry = self.apply(object, "&dryRun=All");
        let taken = existing.as_ref().is_some_and(|e| self.take_over(e));
        if let Some(existing) = &existing
            && !taken
            && !drifted(existing, &dry)
        {
            return Reconciled::Unchanged;
        }
        self.apply(object, "");
        // An object that is not there yet has no version in a dry run.
        match dry["metadata"]["resourceVersion"].is_null() {
            true => Reconciled::Created,
            false => Reconciled::Configured,
        }
    }
}

/// Whether what git says differs from what is there: labels, annotations, and all beside metadata and status.
fn drifted(existing: &Value, dry: &Value) -> bool {
    let rest = |object: &Value| {
        let mut object = object.clone();
        for part in ["metadata", "status"] {
            object[part].take();
        }
        object
    };
    let meta = |object: &Value| ["labels", "annotations"].map(|m| object["metadata"][m].clone());
    dry["metadata"]["resourceVersion"].is_null()
        || meta(existing) != meta(dry)
        || rest(existing) != rest(dry)
}

fn wanted(labels: Value) -> Value {
    let mut object: Value = serde_json::from_str(&actor("a")).unwrap();
    object["metadata"]["labels"] = labels;
    object
}

fn version(ns: &Namespace, actor: &str) -> String {
    let actor = format!("actor/{actor}");
    ns.field(&actor, ".metadata.resourceVersion")
}

#[test]
fn check_41_what_flux_reconciles_again_is_unchanged() {
    let c = shared();
    let ns = c.0.namespace("flux");
    let flux = Flux::new(&c, &ns);
    let object = wanted(json!({"tier": "gold"}));
    assert_eq!(flux.reconcile(&object), Reconciled::Created);
    let made = version(&ns, "a");
    next_second();
    assert_eq!(flux.reconcile(&object), Reconciled::Unchanged);
    assert_eq!(version(&ns, "a"), made);

    // What somebody changes is put back; what they add beside it stays theirs.
    let theirs = json!({"metadata": {"labels": {"tier": "iron"}, "annotations": {"note": "x"}}});
    let by = "--field-manager=somebody";
    let args = ["patch", "actor", "a", "--type=merge", by, "-p"];
    ns.kubectl(&[&args[..], &[&theirs.to_string()]].concat());
    assert_eq!(flux.reconcile(&object), Reconciled::Configured);
    assert_eq!(ns.field("actor/a", ".metadata.labels.tier"), "gold");
    assert_eq!(ns.field("actor/a", ".metadata.annotations.note"), "x");
    assert_eq!(flux.reconcile(&object), Reconciled::Unchanged);
}

#[test]
fn check_41_flux_takes_over_what_kubectl_applied() {
    let c = shared();
    let ns = c.0.namespace("flux");
    let flux = Flux::new(&c, &ns);
    let before = wanted(json!({"tier": "gold", "old": "yes"}));
    ns.pipe(&["apply", "-f", "-"], &before.to_string());
    let object = wanted(json!({"tier": "gold"}));
    assert_eq!(flux.reconcile(&object), Reconciled::Configured);
    let labels: Value = serde_json::from_str(&ns.field("actor/a", ".metadata.labels")).unwrap();
    assert_eq!(
        labels,
        json!({"tier": "gold"}),
        "what git does not say went"
    );
    assert_eq!(
        ns.field("actor/a", ".metadata.managedFields[*].manager"),
        FLUX
    );
    assert_eq!(ns.field("actor/a", ".metadata.annotations"), "");
    let taken = version(&ns, "a");
    assert_eq!(flux.reconcile(&object), Reconciled::Unchanged);
    assert_eq!(version(&ns, "a"), taken);
}

/// The health scripts that we ship, each in a file of its own, by the key that Argo CD has it under.
fn scripts() -> BTreeMap<String, PathBuf> {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/config/argocd/health.yaml");
    let patch = std::fs::read_to_string(shipped).unwrap();
    let patch: Value = serde_yaml_ng::from_str(&patch).unwrap();
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("argocd");
    std::fs::create_dir_all(&dir).unwrap();
    let of = |(key, script): (&String, &Value)| {
        let kind = key.strip_prefix("resource.customizations.health.").unwrap();
        let file = dir.join(kind);
        let new = dir.join(format!("{kind}.{:08x}", rand::random::<u32>()));
        std::fs::write(&new, script.as_str().unwrap()).unwrap();
        std::fs::rename(&new, &file).unwrap();
        (kind.to_owned(), file)
    };
    patch["data"].as_object().unwrap().iter().map(of).collect()
}

/// The program that runs such a script as Argo CD does; built once.
fn interpreter() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| goclient::build("argocd-health", "e2e/gitops/health"))
}

/// `Healthy`, `Progressing`, ..., and why.
#[track_caller]
fn health(script: &Path, object: &str) -> (String, String) {
    let mut command = Command::new(interpreter());
    command.arg(script).stdin(Stdio::piped());
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(object.as_bytes()).unwrap();
    drop(stdin);
    let said = outcome("health", &child.wait_with_output().unwrap());
    let said: Value = serde_json::from_str(&said.unwrap()).unwrap();
    let of = |part: &str| said[part].as_str().unwrap().to_owned();
    (of("status"), of("message"))
}

#[test]
fn check_42_argo_sees_how_actors_are() {
    let c = shared();
    let (ns, other) = (c.0.namespace("argo"), c.0.namespace("argo-templates"));
    let script = scripts().remove("runtime.ate.dev_Actor").unwrap();
    let look = |name: &str| health(&script, &ns.kubectl(&["get", "actor", name, "-o", "json"]));
    let becomes = |name: &str, status: &str| {
        eventually(&format!("{name} is {status}"), || {
            let (is, why) = look(name);
            (is == status).then_some(why)
        })
    };
    ns.actor("a");
    assert!(becomes("a", "Progressing").contains("counter"));
    ns.template();
    becomes("a", "Healthy");

    let mode = r#"{"spec": {"operatingMode": "Suspended"}}"#;
    ns.kubectl(&["patch", "actor", "a", "--type=merge", "-p", mode]);
    becomes("a", "Suspended");

    // Made before the template that does not let it in.
    let mut foreign: Value = serde_json::from_str(&actor("b")).unwrap();
    foreign["spec"]["templateRef"]["namespace"] = other.1.as_str().into();
    ns.pipe(&["create", "-f", "-"], &foreign.to_string());
    becomes("b", "Progressing");
    other.template();
    assert!(becomes("b", "Degraded").contains("allowedNamespaces"));

    let held = r#"{"metadata": {"finalizers": ["test.ate.dev/hold"]}}"#;
    ns.kubectl(&["patch", "actor", "a", "--type=merge", "-p", held]);
    ns.kubectl(&["delete", "actor", "a", "--wait=false"]);
    assert_eq!(look("a").1, "is being deleted");
    let free = r#"{"metadata": {"finalizers": null}}"#;
    ns.kubectl(&["patch", "actor", "a", "--type=merge", "-p", free]);
}

/// Kinds whose controller is not here: the test says what it would.
#[test]
fn check_42_argo_sees_how_templates_and_pools_are() {
    let c = shared();
    let ns = c.0.namespace("argo");
    let scripts = scripts();
    ns.template();
    let pool = json!({"apiVersion": "ate.dev/v1alpha1", "kind": "WorkerPool", "metadata": {"name": "pool"},
        "spec": {"replicas": 0}});
    ns.pipe(&["create", "-f", "-"], &pool.to_string());
    for (what, kind) in [
        ("actortemplate/counter", "ate.dev_ActorTemplate"),
        ("workerpool/pool", "ate.dev_WorkerPool"),
    ] {
        let look = || health(&scripts[kind], &ns.kubectl(&["get", what, "-o", "json"])).0;
        let say = |generation: i64, kind: &str, status: &str| {
            let condition = json!({"type": kind, "status": status, "reason": "Test", "message": "so",
                "lastTransitionTime": "2026-01-01T00:00:00Z"});
            let status =
                json!({"status": {"observedGeneration": generation, "conditions": [condition]}});
            let args = ["patch", what, "--subresource=status", "--type=merge", "-p"];
            ns.kubectl(&[&args[..], &[&status.to_string()]].concat());
        };
        assert_eq!(look(), "Progressing", "{kind}");
        say(0, "Ready", "True");
        assert_eq!(look(), "Progressing", "{kind}: not about this generation");
        say(1, "Ready", "True");
        assert_eq!(look(), "Healthy", "{kind}");
        say(1, "Ready", "False");
        assert_eq!(look(), "Progressing", "{kind}");
        say(1, "Stalled", "True");
        assert_eq!(look(), "Degraded", "{kind}");
    }
    for (phase, is) in [
        ("Free", "Healthy"),
        ("Draining", "Progressing"),
        ("Lost", "Degraded"),
    ] {
        let worker = json!({"metadata": {"name": "w"}, "status": {"phase": phase}});
        let said = health(&scripts["runtime.ate.dev_Worker"], &worker.to_string());
        assert_eq!(said.0, is);
    }
}

/// Helm, which waits until what it installs is ready.
fn helm(c: &Cluster, ns: &Namespace, args: &[&str]) -> Result<String, String> {
    let mut command = c.client("helm");
    command.args(["-n", &ns.1]).args(args);
    outcome(
        &format!("helm {}", args.join(" ")),
        &command.output().unwrap(),
    )
}

/// With the sample that README names for Git: a pool, a template by its hash, actors.
#[test]
fn check_43_helm_installs_upgrades_and_uninstalls() {
    let c = shared();
    let ns = c.0.namespace("helm");
    let said = helm(&c, &ns, &["version", "--short"]).unwrap();
    assert!(said.starts_with("v4."), "{said}");
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/config/samples/gitops/agents");
    let wait = ["--wait", "--timeout", "60s"];
    let run = |args: &[&str]| helm(&c, &ns, &[args, &wait].concat()).unwrap();
    let boots = ["--set", "template.golden.policy=Disabled"];
    let upgrade = |set: &[&str]| run(&[&["upgrade", "a", chart], &boots[..], set].concat());
    let tier = || ns.field("actor/alice", ".metadata.labels.tier");
    let templates = || ns.kubectl(&["get", "actortemplates", "-o", "name"]);
    let named = || format!("actortemplate.ate.dev/{}\n", of_alice(&ns));

    let said = run(&[&["install", "a", chart], &boots[..]].concat());
    assert!(said.contains("STATUS: deployed"), "{said}");
    assert_eq!(tier(), "silver");
    let (made, first) = (version(&ns, "alice"), of_alice(&ns));
    assert_eq!(templates(), named());
    upgrade(&[]);
    assert_eq!(version(&ns, "alice"), made, "nothing to change");
    upgrade(&["--set", "actors.alice.labels.tier=gold"]);
    assert_eq!((tier(), of_alice(&ns)), ("gold".into(), first.clone()));
    let zone = "actors.alice.spec.workerSelector.matchLabels.zone=b";
    upgrade(&["--set", zone]);
    let selector = ".spec.workerSelector.matchLabels.zone";
    assert_eq!(ns.field("actor/alice", selector), "b");
    assert_eq!(ns.field("actor/alice", ".metadata.generation"), "2");

    upgrade(&["--set", "template.golden.settleSeconds=5"]);
    assert_ne!(of_alice(&ns), first, "another template");
    assert_eq!(templates(), named(), "and only that");
    run(&["rollback", "a", "1"]);
    assert_eq!((tier(), of_alice(&ns)), ("silver".into(), first));
    assert_eq!(templates(), named());
    run(&["uninstall", "a"]);
    assert_eq!(ns.kubectl(&["get", "actors", "-o", "name"]).trim(), "");
}

fn of_alice(ns: &Namespace) -> String {
    ns.field("actor/alice", ".spec.templateRef.name")
}
