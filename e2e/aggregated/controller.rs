//! Our controller, with exactly the rights that `config/rbac` gives it. Pods stay without a node here: what they would run is
//! reported by the tests.

use super::harness::{Alone, Cluster, Namespace, alone, eventually, kill};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::Child;
use std::time::Duration;
use substrate::api::names::{ActorKey, PoolKey, WorkerKey};
use substrate::api::record::{Claim, WorkerRecord};
use substrate::api::{Timestamp, names::Epoch};
use substrate::identity::{LeafRequest, Usage, files};
use substrate::store::redis::{RedisStore, StoreOptions};
use substrate::store::{ClaimRequest, Store};
use uuid::Uuid;

const IMAGE: &str = "example.org/ate:1";
/// Whoever claims a worker here.
const CLAIMANT: Uuid = Uuid::nil();
/// How long nothing may be written.
const REST: Duration = Duration::from_secs(5);

pub struct Controller {
    cluster: &'static Cluster,
    name: String,
    pub child: Child,
}

impl Controller {
    fn start(cluster: &'static Cluster, name: &str, flags: &[&str]) -> Self {
        let request = LeafRequest::new("controller", Usage::Both).group("ate:component");
        let leaf = cluster.authority().leaf(&request).unwrap();
        let write = |file: &str, mode, pem: &str| {
            files::write(&cluster.path(file), mode, pem.as_bytes()).unwrap();
        };
        write("ours/controller.key", files::SECRET_MODE, &leaf.key);
        write("ours/controller.crt", files::PUBLIC_MODE, &leaf.chain);
        let file = |name: &str| cluster.path("ours").join(name).display().to_string();
        let files = [
            ("--tls-ca", file("ca.crt")),
            ("--tls-cert", file("controller.crt")),
            ("--tls-key", file("controller.key")),
            ("--worker-image", IMAGE.to_owned()),
        ];
        let files = files.into_iter().flat_map(|(k, v)| [k.to_owned(), v]);
        let flags: Vec<_> = files.chain(flags.iter().map(|&f| f.to_owned())).collect();
        Self::spawn(cluster, name, &flags)
    }

    /// One that issues the certificates of all.
    pub fn issuing(cluster: &'static Cluster, name: &str, flags: &[&str]) -> Self {
        let issuing = ["--issue-certificates=ate-system"];
        let flags = [&issuing, flags].concat();
        let flags: Vec<_> = flags.iter().map(|&f| f.to_owned()).collect();
        Self::spawn(cluster, name, &flags)
    }

    fn spawn(cluster: &'static Cluster, name: &str, flags: &[String]) -> Self {
        cluster.write_kubeconfig("ate-controller", "ours/kubeconfig-controller");
        let kubeconfig = cluster.path("ours/kubeconfig-controller");
        let args = [
            ("--store", cluster.store_url()),
            ("--kubeconfig", kubeconfig.display().to_string()),
            ("--replica-name", name.to_owned()),
        ];
        let args = args.into_iter().flat_map(|(k, v)| [k.to_owned(), v]);
        let args = ["controller".to_owned()].into_iter().chain(args);
        let args: Vec<_> = args.chain(flags.iter().cloned()).collect();
        let log = format!("log/{name}.log");
        let _ = std::fs::remove_file(cluster.path(&log));
        let child = cluster.spawn(env!("CARGO_BIN_EXE_ate"), &args, &log);
        Self {
            cluster,
            name: name.to_owned(),
            child,
        }
    }

    fn log(&self) -> String {
        let file = self.cluster.path(&format!("log/{}.log", self.name));
        std::fs::read_to_string(file).unwrap_or_default()
    }

    /// Asks it to end, and waits.
    fn stop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        eventually("the controller ends", || self.child.try_wait().unwrap());
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        kill(&mut self.child);
        // An event that it may not write is missed by nobody.
        let log = self.log();
        if std::thread::panicking() {
            eprintln!("--- {}\n{log}", self.name);
        } else {
            assert!(!log.contains("forbidden: User"), "{log}");
        }
    }
}

/// The workers of a pool as a node would report them: one for each pod.
struct Workers {
    runtime: tokio::runtime::Runtime,
    store: RedisStore,
    pool: PoolKey,
    known: Vec<WorkerKey>,
}

impl Workers {
    fn of(cluster: &Cluster, ns: &Namespace, pool: &str) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let options = StoreOptions::new(cluster.store_url());
        let store = runtime.block_on(RedisStore::connect(options)).unwrap();
        Self {
            runtime,
            store,
            pool: PoolKey::new(&ns.1, pool),
            known: vec![],
        }
    }

    fn report(&mut self, pods: &[String]) {
        for pod in pods {
            let record = WorkerRecord {
                key: WorkerKey::new(&self.pool.namespace, pod),
                pool: self.pool.clone(),
                uid: pod.clone(),
                node: "nowhere".into(),
                ip: "10.0.0.1".into(),
                sandbox_class: "gvisor".into(),
                created: Timestamp::now(),
                ..WorkerRecord::default()
            };
            let reported = self.store.report_worker(&record);
            self.runtime.block_on(reported).unwrap();
            self.known.push(record.key);
        }
    }

    /// Claims one; its name.
    fn claim(&self, actor: &str) -> String {
        let claim = Claim {
            actor: ActorKey::new(&self.pool.namespace, actor),
            uid: CLAIMANT,
            epoch: Epoch(1),
            deadline: Timestamp::now() + Duration::from_secs(600),
        };
        let request = ClaimRequest {
            pool: self.pool.clone(),
            claim,
            nodes: None,
        };
        let claimed = self.runtime.block_on(self.store.claim(&request)).unwrap();
        claimed.unwrap().key.name
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for worker in &self.known {
            let released = self.store.release(&self.pool, worker, CLAIMANT, Epoch(1));
            let _ = self.runtime.block_on(released);
            let removed = self.store.remove_worker(&self.pool, worker);
            let _ = self.runtime.block_on(removed);
        }
    }
}

fn put(ns: &Namespace, pool: &str, spec: Value) {
    let pool = json!({
        "apiVersion": "ate.dev/v1alpha1", "kind": "WorkerPool",
        "metadata": {"name": pool}, "spec": spec,
    });
    ns.pipe(&["apply", "-f", "-"], &pool.to_string());
}

fn pods(ns: &Namespace, pool: &str) -> Vec<String> {
    let label = format!("ate.dev/worker-pool={pool}");
    let names = "jsonpath={.items[*].metadata.name}";
    let said = ns.kubectl(&["get", "pods", "-l", &label, "-o", names]);
    said.split_whitespace().map(str::to_owned).collect()
}

fn wait_for_pods(ns: &Namespace, pool: &str, count: usize) -> Vec<String> {
    eventually("so many pods", || {
        let pods = pods(ns, pool);
        (pods.len() == count).then_some(pods)
    })
}

/// `True Reason` of a condition.
fn condition(ns: &Namespace, what: &str, kind: &str) -> String {
    let of = |field| {
        ns.field(
            what,
            &format!(".status.conditions[?(@.type==\"{kind}\")].{field}"),
        )
    };
    format!("{} {}", of("status"), of("reason"))
}

fn wait_for(ns: &Namespace, what: &str, kind: &str, wanted: &str) {
    eventually(&format!("{what}: {kind} is {wanted}"), || {
        (condition(ns, what, kind) == wanted).then_some(())
    });
}

/// What has which version, of all that a pool is.
fn versions(ns: &Namespace) -> BTreeMap<String, String> {
    let kinds = "workerpools,deployments,replicasets,poddisruptionbudgets,pods,actortemplates";
    let list: Value = serde_json::from_str(&ns.kubectl(&["get", kinds, "-o", "json"])).unwrap();
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let items = list["items"].as_array().unwrap().iter();
    items
        .map(|o| {
            let name = format!("{}/{}", text(&o["kind"]), text(&o["metadata"]["name"]));
            (name, text(&o["metadata"]["resourceVersion"]))
        })
        .collect()
}

fn events(ns: &Namespace, what: &str) -> String {
    let about = format!("involvedObject.name={what}");
    let reasons = "jsonpath={.items[*].reason}";
    ns.kubectl(&["get", "events", "--field-selector", &about, "-o", reasons])
}

/// Another object of the same name is there.
fn comes_back(ns: &Namespace, what: &str) {
    let uid = || ns.field(what, ".metadata.uid");
    let before = uid();
    assert!(!before.is_empty(), "{what} is there");
    ns.kubectl(&["delete", what, "--wait=false"]);
    eventually(&format!("{what} comes back"), || {
        let now = uid();
        (!now.is_empty() && now != before).then_some(())
    });
}

#[test]
fn a_pool_is_a_deployment_that_is_kept() {
    let c = alone();
    let ns = c.0.namespace("pool");
    let _controller = Controller::start(c.0, "controller", &[]);
    let template = json!({
        "nodeSelector": {"disk": "ssd"}, "priorityClassName": "system-node-critical",
        "tolerations": [{"key": "k", "operator": "Exists"}],
        "resources": {"requests": {"cpu": "1000m", "memory": "1024Mi"}},
    });
    put(&ns, "p", json!({"replicas": 2, "template": template}));
    wait_for_pods(&ns, "p", 2);
    wait_for(&ns, "workerpool/p", "Reconciling", "True WorkersStarting");
    let of_pod = |path: &str| {
        ns.field(
            "deployment/p-workers",
            &format!(".spec.template.spec{path}"),
        )
    };
    assert_eq!(of_pod(".containers[0].image"), IMAGE);
    assert_eq!(of_pod(".nodeSelector.disk"), "ssd");
    assert_eq!(of_pod(".tolerations[0].key"), "k");
    assert_eq!(of_pod(".priorityClassName"), "system-node-critical");

    // What somebody changes or deletes is put back.
    ns.kubectl(&["scale", "deployment/p-workers", "--replicas=5"]);
    let patch = r#"{"spec": {"template": {"spec": {"automountServiceAccountToken": true}}}}"#;
    ns.kubectl(&["patch", "deployment/p-workers", "-p", patch]);
    eventually("the Deployment is put back", || {
        let replicas = ns.field("deployment/p-workers", ".spec.replicas");
        (replicas == "2" && of_pod(".automountServiceAccountToken") == "false").then_some(())
    });
    comes_back(&ns, "deployment/p-workers");
    comes_back(&ns, "poddisruptionbudget/p-workers");

    // As many as wanted, and ready when nodes say so.
    ns.kubectl(&["scale", "workerpool/p", "--replicas=3"]);
    let all = wait_for_pods(&ns, "p", 3);
    let mut workers = Workers::of(c.0, &ns, "p");
    workers.report(&all);
    wait_for(&ns, "workerpool/p", "Ready", "True WorkersReady");
    wait_for(&ns, "workerpool/p", "Reconciling", "False AsDesired");
    assert_eq!(ns.field("workerpool/p", ".status.replicas"), "3");
    eventually("the event", || {
        events(&ns, "p").contains("WorkersReady").then_some(())
    });

    // At rest nothing is written.
    let before = versions(&ns);
    assert_eq!(before.len(), 3 + 4, "{before:?}");
    std::thread::sleep(REST);
    assert_eq!(versions(&ns), before);

    // The busy one stays.
    let busy = workers.claim("busy");
    ns.kubectl(&["scale", "workerpool/p", "--replicas=1"]);
    assert_eq!(wait_for_pods(&ns, "p", 1), [busy]);

    ns.kubectl(&["delete", "workerpool/p", "--wait=false"]);
    wait_for_pods(&ns, "p", 0);
}

#[test]
fn a_pool_that_cannot_be_made_says_why() {
    let c = alone();
    let ns = c.0.namespace("pool");
    let _controller = Controller::start(
        c.0,
        "controller",
        &["--allow-worker-image", "example.org/mine"],
    );
    let image = |pool| {
        ns.field(
            &format!("deployment/{pool}-workers"),
            ".spec.template.spec.containers[0].image",
        )
    };

    // The reference's image: ours runs.
    put(
        &ns,
        "old",
        json!({"replicas": 1, "ateomImage": "localhost:5001/ateom-gvisor:head"}),
    );
    wait_for(
        &ns,
        "workerpool/old",
        "ImageReplaced",
        "True NotOurProtocol",
    );
    assert_eq!(image("old"), IMAGE);
    // What the operator does not allow is not run; what they allow is.
    put(
        &ns,
        "foreign",
        json!({"replicas": 1, "ateomImage": "example.org/foreign:1"}),
    );
    wait_for(&ns, "workerpool/foreign", "Stalled", "True ImageNotAllowed");
    assert_eq!(image("foreign"), "");
    let warned = || events(&ns, "foreign").contains("ImageNotAllowed");
    eventually("the event", || warned().then_some(()));
    put(
        &ns,
        "foreign",
        json!({"replicas": 1, "ateomImage": "example.org/mine:1"}),
    );
    wait_for(&ns, "workerpool/foreign", "Stalled", "False AsDesired");
    assert_eq!(image("foreign"), "example.org/mine:1");

    // Somebody else's Deployment is left alone, and taken as it goes.
    ns.kubectl(&[
        "create",
        "deployment",
        "taken-workers",
        "--image=example.org/other",
    ]);
    put(&ns, "taken", json!({"replicas": 1}));
    wait_for(&ns, "workerpool/taken", "Stalled", "True NameTaken");
    assert_eq!(image("taken"), "example.org/other");

    // What Kubernetes refuses is said in its words.
    let template = json!({"tolerations": [{"key": "k", "operator": "Sometimes"}]});
    put(&ns, "wrong", json!({"replicas": 1, "template": template}));
    wait_for(&ns, "workerpool/wrong", "Stalled", "True Refused");
    let why = ns.field(
        "workerpool/wrong",
        ".status.conditions[?(@.type==\"Stalled\")].message",
    );
    assert!(why.contains("tolerations[0].operator"), "{why}");

    // Nor can pods be made in a namespace that takes no privileged ones.
    let label = "pod-security.kubernetes.io/enforce=restricted";
    c.kubectl(&["label", "namespace", &ns.1, label]);
    put(&ns, "denied", json!({"replicas": 1}));
    wait_for(&ns, "workerpool/denied", "Stalled", "True FailedCreate");
}

fn holder(c: &Alone) -> String {
    c.field("ate-system", "lease/ate-controller", ".spec.holderIdentity")
}

fn transitions(c: &Alone) -> u32 {
    let told = c.field(
        "ate-system",
        "lease/ate-controller",
        ".spec.leaseTransitions",
    );
    told.parse().unwrap()
}

#[test]
fn of_two_controllers_one_works() {
    let c = alone();
    let ns = c.0.namespace("lease");
    // Long enough that a busy machine does not take it away from one that lives.
    let flags = ["--leader-elect", "--leader-elect-lease-duration", "6"];
    let mut first = Controller::start(c.0, "first", &flags);
    eventually("the first leads", || {
        holder(&c).starts_with("first_").then_some(())
    });
    let mut second = Controller::start(c.0, "second", &flags);
    eventually("the second waits", || {
        second.log().contains("waiting").then_some(())
    });
    put(&ns, "p", json!({"replicas": 0}));
    let made = |pool: &str| ns.field(&format!("deployment/{pool}-workers"), ".metadata.uid");
    eventually("the first works", || (!made("p").is_empty()).then_some(()));
    assert!(!second.log().contains("leading"));

    // Killed, it cannot give the lease back: the second takes it when it lapsed.
    let before = transitions(&c);
    kill(&mut first.child);
    put(&ns, "q", json!({"replicas": 0}));
    eventually("the second works", || (!made("q").is_empty()).then_some(()));
    assert!(holder(&c).starts_with("second_"), "{}", holder(&c));
    assert_eq!(transitions(&c), before + 1);

    // One that is stopped gives it back.
    second.stop();
    assert_eq!(holder(&c), "");
    c.kubectl(&["-n", "ate-system", "delete", "lease/ate-controller"]);
}

#[test]
fn a_template_goes_with_its_last_actor() {
    let c = alone();
    let ns = c.0.namespace("template");
    let _controller = Controller::start(c.0, "controller", &[]);
    ns.template();
    wait_for(&ns, "actortemplate/counter", "Ready", "True NoGoldenWanted");
    for actor in ["a", "b"] {
        ns.actor(actor);
    }
    ns.kubectl(&["delete", "actortemplate/counter", "--wait=false"]);
    wait_for(
        &ns,
        "actortemplate/counter",
        "DeletionBlocked",
        "True ActorsUseIt",
    );
    let message = ".status.conditions[?(@.type==\"DeletionBlocked\")].message";
    assert_eq!(
        ns.field("actortemplate/counter", message),
        "2 actors use the template: a, b; it goes with the last of them"
    );
    eventually("the event", || {
        events(&ns, "counter").contains("ActorsUseIt").then_some(())
    });
    ns.kubectl(&["delete", "actors", "a"]);
    eventually("one is left", || {
        let said = ns.field("actortemplate/counter", message);
        (said == "1 actor uses the template: b; it goes with that").then_some(())
    });
    ns.kubectl(&["delete", "actors", "b"]);
    ns.kubectl(&[
        "wait",
        "--for=delete",
        "actortemplate/counter",
        "--timeout=60s",
    ]);
}
