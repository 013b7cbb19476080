//! Real kubectl over HTTPS.

use super::tls::Https;
use super::*;
use crate::access::MASTERS;
use crate::identity::kubeconfig;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

const MANIFEST: &str = "
apiVersion: ate.dev/v1alpha1
kind: WorkerPool
metadata: {name: small, namespace: demo}
spec: {replicas: 2}
---
apiVersion: ate.dev/v1alpha1
kind: ActorTemplate
metadata: {name: counter, namespace: demo}
spec:
  containers:
  - name: app
    image: example.org/counter@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
    ports: [{name: http, containerPort: 8080}]
---
apiVersion: runtime.ate.dev/v1alpha1
kind: Actor
metadata: {name: one, namespace: demo, labels: {tier: gold}}
spec: {templateRef: {name: counter}}
";

/// kubectl with a home of its own.
struct Kubectl(Https);

impl Kubectl {
    async fn new() -> Self {
        let https = Https::new().await;
        let client = https.client_leaf(MASTERS);
        let config = kubeconfig(&https.url(""), https.authority.certificate(), &client);
        std::fs::write(https.dir.path().join("config"), config).unwrap();
        Self(https)
    }

    fn file(&self, content: &str) -> String {
        let path = self.0.dir.path().join("manifest.yaml");
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn command(&self, args: &[&str]) -> Command {
        let dir = self.0.dir.path();
        let mut command = Command::new("kubectl1.35");
        command
            .args(args)
            .env("KUBECONFIG", dir.join("config"))
            .env("KUBECACHEDIR", dir.join("cache"))
            .env("HOME", dir)
            .env("KUBE_EDITOR", "sed -i s/replicas:.*/replicas:\\ 6/")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    async fn try_run(&self, args: &[&str]) -> (bool, String) {
        let output = self.command(args).output();
        let output = tokio::time::timeout(PATIENCE, output).await;
        let output = output
            .unwrap_or_else(|_| panic!("kubectl {args:?} ends"))
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    }

    async fn run(&self, args: &str) -> String {
        let list: Vec<_> = args.split(' ').collect();
        let (good, text) = self.try_run(&list).await;
        assert!(good, "kubectl {args}: {text}");
        text
    }
}

fn squeeze(text: &str) -> Vec<String> {
    text.lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

/// Objects with much wrong, and what kubectl says of them.
const BAD: &str = include_str!("refusals.yaml");
const REFUSED: &str = include_str!("refusals.txt");

#[tokio::test(flavor = "multi_thread")]
async fn refusals_read_well() {
    let k = Kubectl::new().await;
    let file = k.file(BAD);
    let (good, said) = k.try_run(&["apply", "-f", &file]).await;
    assert!(!good);
    let from = format!("Error from server (Invalid): error when creating {file:?}: ");
    assert_eq!(said.replace(&from, ""), REFUSED);
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_get_change_delete() {
    let k = Kubectl::new().await;
    let manifest = k.file(MANIFEST);
    let apply = format!("apply -f {manifest}");
    let said = k.run(&apply).await;
    assert_eq!(
        squeeze(&said),
        [
            "workerpool.ate.dev/small created",
            "actortemplate.ate.dev/counter created",
            "actor.runtime.ate.dev/one created"
        ]
    );
    let said = k.run(&apply).await;
    assert!(said.lines().all(|l| l.ends_with("unchanged")), "{said}");
    k.file(
        &MANIFEST
            .replace("replicas: 2", "replicas: 3")
            .replace("tier: gold", "tier: iron"),
    );
    let said = k.run(&apply).await;
    assert_eq!(
        squeeze(&said),
        [
            "workerpool.ate.dev/small configured",
            "actortemplate.ate.dev/counter unchanged",
            "actor.runtime.ate.dev/one configured"
        ]
    );
    assert_eq!(
        k.run("get wp small -n demo -o jsonpath={.spec.replicas}")
            .await,
        "3"
    );
    assert_eq!(
        k.run("get actor one -n demo -o jsonpath={.metadata.labels.tier}")
            .await,
        "iron"
    );
    k.file(&MANIFEST.replace("replicas: 2", "replicaz: 2"));
    let (good, said) = k.try_run(&apply.split(' ').collect::<Vec<_>>()).await;
    assert!(
        !good && said.contains("unknown field \"spec.replicaz\""),
        "{said}"
    );

    let table = squeeze(&k.run("get actors -A").await);
    assert_eq!(table[0], "NAMESPACE NAME TEMPLATE PHASE READY WORKER AGE");
    assert!(
        table[1].starts_with("demo one counter Suspended True <none> "),
        "{table:?}"
    );
    let table = squeeze(&k.run("get act -n demo -o wide").await);
    assert_eq!(
        table[0],
        "NAME TEMPLATE PHASE READY WORKER AGE MODE NODE IP SNAPSHOT SIZE LAST-ACTIVE EPOCH"
    );
    let table = k
        .run("get actors,workers,workerpools,actortemplates -n demo")
        .await;
    assert!(table.contains("actor.runtime.ate.dev/one"), "{table}");
    assert!(table.contains("workerpool.ate.dev/small"), "{table}");
    let yaml = k.run("get actor one -n demo -o yaml").await;
    assert!(yaml.contains("templateRef:\n    name: counter\n"), "{yaml}");
    assert_eq!(
        k.run("get actors -n demo -l tier=gold -o name").await,
        "actor.runtime.ate.dev/one\n"
    );
    let said = k.run("get ate -n demo -o name").await;
    assert!(
        said.contains("one") && said.contains("small") && said.contains("counter"),
        "{said}"
    );

    assert_eq!(
        k.run("delete actor one -n demo").await.trim(),
        "actor.runtime.ate.dev \"one\" deleted from demo namespace"
    );
    let said = k
        .run(&format!("delete -f {manifest} --ignore-not-found"))
        .await;
    assert_eq!(said.lines().count(), 2, "{said}");
    let (good, said) = k.try_run(&["get", "actor", "one", "-n", "demo"]).await;
    assert!(
        !good && said.contains("actors.runtime.ate.dev \"one\" not found"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn looks_at_kinds_and_objects() {
    let k = Kubectl::new().await;
    let manifest = k.file(MANIFEST);
    k.run(&format!("create -f {manifest}")).await;
    let said = k.run("describe actor one -n demo").await;
    assert!(
        said.contains("Name:         one") && said.contains("Template Ref:"),
        "{said}"
    );
    let said = k.run("describe workerpool -n demo").await;
    assert!(said.contains("Replicas:"), "{said}");
    let said = k.run("explain actor.spec").await;
    assert!(
        said.contains("operatingMode") && said.contains("sleeps when idle"),
        "{said}"
    );
    let said = k.run("explain actors --recursive").await;
    assert!(
        said.contains("templateRef") && said.contains("creationTimestamp"),
        "{said}"
    );
    let said = squeeze(&k.run("api-resources --no-headers").await);
    assert!(
        said.contains(&"actors act runtime.ate.dev/v1alpha1 true Actor".into()),
        "{said:?}"
    );
    assert!(
        said.contains(&"workerpools wp ate.dev/v1alpha1 true WorkerPool".into()),
        "{said:?}"
    );
    let said = squeeze(&k.run("get namespaces").await);
    assert_eq!(said[0], "NAME STATUS AGE");
    assert!(
        said.iter().any(|l| l.starts_with("demo Active ")),
        "{said:?}"
    );
    let said = k.run("version").await;
    assert!(said.contains("Server Version: v1.33.0"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_scales_edits_waits() {
    let k = Kubectl::new().await;
    let manifest = k.file(MANIFEST);
    k.run(&format!("apply -f {manifest}")).await;
    let replicas = "get wp small -n demo -o jsonpath={.spec.replicas}";
    k.run("scale workerpool small -n demo --replicas=4").await;
    assert_eq!(k.run(replicas).await, "4");
    k.run("patch wp small -n demo --type merge -p {\"spec\":{\"replicas\":5}}")
        .await;
    assert_eq!(k.run(replicas).await, "5");
    k.run("patch wp small -n demo --type json -p [{\"op\":\"replace\",\"path\":\"/spec/replicas\",\"value\":1}]").await;
    assert_eq!(k.run(replicas).await, "1");
    k.run("edit wp small -n demo").await;
    assert_eq!(k.run(replicas).await, "6");
    k.run("label actor one -n demo x=y").await;
    k.run("annotate actor one -n demo x=y").await;
    assert_eq!(
        k.run("get actor -n demo -l x=y -o name").await,
        "actor.runtime.ate.dev/one\n"
    );
    let (same, said) = k.try_run(&["diff", "-f", &manifest]).await;
    assert!(!same && said.contains("+  replicas: 2"), "{said}");
    k.run(&format!("apply -f {manifest}")).await;
    assert_eq!(k.run(&format!("diff -f {manifest}")).await, "");

    k.run("wait actor/one -n demo --for=condition=Ready --timeout=10s")
        .await;
    k.run("create --raw /apis/runtime.ate.dev/v1alpha1/namespaces/demo/actors/one/resume?wait=5 -f /dev/null").await;
    k.run("wait actor/one -n demo --for=jsonpath={.status.phase}=Running --timeout=10s")
        .await;
    let (good, said) = k
        .try_run(&[
            "wait",
            "wp/small",
            "-n",
            "demo",
            "--for=condition=Ready",
            "--timeout=1s",
        ])
        .await;
    assert!(!good && said.contains("timed out"), "{said}");
    let hold = "patch wp small -n demo --type merge -p {\"metadata\":{\"finalizers\":";
    k.run(&format!("{hold}[\"example.org/hold\"]}}}}")).await;
    k.run("delete wp small -n demo --wait=false").await;
    let let_go = format!("{hold}null}}}}");
    tokio::join!(
        k.run("wait wp/small -n demo --for=delete --timeout=10s"),
        k.run(&let_go),
    );
    assert!(!k.try_run(&["get", "wp", "small", "-n", "demo"]).await.0);
    let said = k.run("delete actors --all -n demo").await;
    assert!(said.contains("deleted"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn watches() {
    let k = Kubectl::new().await;
    let manifest = k.file(MANIFEST);
    k.run(&format!("apply -f {manifest}")).await;
    let mut child = k
        .command(&["get", "actors", "-n", "demo", "-w"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = async || {
        let line = tokio::time::timeout(PATIENCE, lines.next_line())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        line.split_whitespace()
            .take(3)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(next().await, "NAME TEMPLATE PHASE");
    assert_eq!(next().await, "one counter Suspended");
    k.run("create --raw /apis/runtime.ate.dev/v1alpha1/namespaces/demo/actors/one/resume?wait=5 -f /dev/null").await;
    assert_eq!(next().await, "one counter Resuming");
    assert_eq!(next().await, "one counter Running");
}

#[tokio::test(flavor = "multi_thread")]
async fn applies_server_side() {
    let k = Kubectl::new().await;
    let manifest = k.file(MANIFEST);
    let apply = format!("apply --server-side -f {manifest}");
    let applied = [
        "workerpool.ate.dev/small serverside-applied",
        "actortemplate.ate.dev/counter serverside-applied",
        "actor.runtime.ate.dev/one serverside-applied",
    ];
    assert_eq!(squeeze(&k.run(&apply).await), applied);
    let versions =
        "get wp,actortemplates,actors -n demo -o jsonpath={.items[*].metadata.resourceVersion}";
    let before = k.run(versions).await;
    assert_eq!(squeeze(&k.run(&apply).await), applied);
    assert_eq!(k.run(versions).await, before);
    assert_eq!(
        k.run(&format!("diff --server-side -f {manifest}")).await,
        ""
    );

    // Another manager has its own fields; what both want to decide is a conflict.
    k.file(
        &MANIFEST
            .replace("replicas: 2", "replicas: 3")
            .replace("tier: gold", "colour: red"),
    );
    let other = format!("{apply} --field-manager=other");
    let args: Vec<_> = other.split(' ').collect();
    let (good, said) = k.try_run(&args).await;
    assert!(!good, "{said}");
    for text in [
        "Apply failed with 1 conflict: conflict with \"kubectl\": .spec.replicas",
        "`--force-conflicts` flag",
    ] {
        assert!(said.contains(text), "{said}");
    }
    k.run(&format!("{other} --force-conflicts")).await;
    let replicas = "get wp small -n demo -o jsonpath={.spec.replicas}";
    assert_eq!(k.run(replicas).await, "3");
    let labels = "get actor one -n demo -o jsonpath={.metadata.labels}";
    assert_eq!(
        k.run(labels).await,
        "{\"colour\":\"red\",\"tier\":\"gold\"}"
    );
    let shown = k
        .run("get actor one -n demo -o yaml --show-managed-fields")
        .await;
    assert!(
        shown.contains("manager: other") && shown.contains("f:colour: {}"),
        "{shown}"
    );
    assert!(
        !k.run("get actor one -n demo -o yaml")
            .await
            .contains("managedFields")
    );

    // What a manager no longer says goes; what the other says stays.
    k.file(&MANIFEST.replace(", labels: {tier: gold}", ""));
    k.run(&format!("{apply} --force-conflicts")).await;
    assert_eq!(k.run(labels).await, "{\"colour\":\"red\"}");
    let dry = MANIFEST.replace("tier: gold", "tier: iron");
    k.file(&dry);
    let (same, said) = k.try_run(&["diff", "--server-side", "-f", &manifest]).await;
    assert!(!same && said.contains("+    tier: iron"), "{said}");
    k.run(&format!("{apply} --dry-run=server")).await;
    assert_eq!(k.run(labels).await, "{\"colour\":\"red\"}");
    k.file(&MANIFEST.replace("replicas: 2", "replicaz: 2"));
    let args: Vec<_> = apply.split(' ').collect();
    let (good, said) = k.try_run(&args).await;
    assert!(
        !good && said.contains(".spec.replicaz: field not declared in schema"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn goes_over_from_client_side_apply() {
    let k = Kubectl::new().await;
    let manifest = k.file(MANIFEST);
    k.run(&format!("apply -f {manifest}")).await;
    let managers = "get wp small -n demo -o jsonpath={.metadata.managedFields[*].manager}/{.metadata.managedFields[*].operation}";
    assert_eq!(k.run(managers).await, "kubectl-client-side-apply/Update");
    k.file(&MANIFEST.replace("replicas: 2", "replicas: 3"));
    let apply = format!("apply --server-side -f {manifest}");
    k.run(&apply).await;
    // kubectl itself turns what it owned into an apply, and the annotation into one of its own.
    assert_eq!(
        k.run(managers).await,
        "kubectl-last-applied kubectl/Apply Apply"
    );
    let last = "get wp small -n demo -o jsonpath={.metadata.annotations}";
    assert!(k.run(last).await.contains("replicas\\\":3"));
    // And what client-side apply set is let go.
    k.file(&MANIFEST.replace(", labels: {tier: gold}", ""));
    k.run(&apply).await;
    let labels = "get actor one -n demo -o jsonpath={.metadata.labels}";
    assert_eq!(k.run(labels).await, "");
    // There and back.
    k.file(&MANIFEST.replace("replicas: 2", "replicas: 5"));
    k.run(&format!("apply -f {manifest}")).await;
    assert_eq!(
        k.run("get wp small -n demo -o jsonpath={.spec.replicas}")
            .await,
        "5"
    );
}
