//! The charts and `config/` say the same, and only what the binary knows; the image holds what runs. Whether Kubernetes takes it
//! is `aggregated::charts`'.

use crate::parts::look::{KUBECTL, text};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output};

/// Objects by kind, namespace and name.
pub type Objects = BTreeMap<String, Value>;

/// Values that turn on what is off.
pub const MORE: &[&str] = &[
    "leases.node=60",
    "leases.operation=10",
    "apiserver.actorsPerNamespace=5",
    "apiserver.hideActorWatch=true",
    "apiserver.grpcAnonymousUser=ate:grpc-anonymous",
    "apiserver.priorityClassName=system-cluster-critical",
    "apiserver.tolerations[0].key=a",
    "controller.nodeSelector.disk=ssd",
    "router.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].key=a",
    "router.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].operator=Exists",
    "atelet.cacheBytes=1000000000",
    "atelet.imageBytes=2000000000",
    "atelet.dockerConfigSecret=registries",
    "atelet.nodeSelector.disk=ssd",
    "router.service.type=NodePort",
    "router.service.annotations.a=b",
    "imagePullSecrets[0].name=pull",
    "snapshots.location=s3://bucket/prefix",
    "store.bundled.persistence.storageClass=fast",
    "objects.bundled.persistence.storageClass=fast",
    "atelet.serviceAccount.annotations.role=snapshots",
    "metrics.annotations=true",
];
/// Values of a store and an S3 server elsewhere.
pub const ELSEWHERE: &[&str] = &[
    "store.bundled.enabled=false",
    "store.url=rediss://:$(STORE_PASSWORD)@store.example:6379",
    "store.cluster=true",
    "store.passwordSecret=elsewhere",
    "objects.bundled.enabled=false",
    "objects.endpoint=https://s3.example",
    "objects.region=here",
    "objects.caSecret=s3-ca",
    "objects.secret=s3-keys",
];

fn root(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What a program wrote; what it complained of, where it failed.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output();
    let Output {
        status,
        stdout,
        stderr,
    } = output.unwrap_or_else(|e| panic!("{command:?}: {e} (e2e/setup.sh test)"));
    match status.success() {
        true => Ok(text(&stdout)),
        false => Err(text(&stderr)),
    }
}

/// Objects by kind, namespace and name.
pub fn objects(yaml: &str) -> Objects {
    let documents = serde_yaml_ng::Deserializer::from_str(yaml);
    let objects = documents.map(|document| Value::deserialize(document).unwrap());
    let keyed = objects.filter(|object| !object.is_null()).map(|object| {
        let of = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or("-");
        let key = [of("/kind"), of("/metadata/namespace"), of("/metadata/name")].join(" ");
        (key, object)
    });
    let mut all = Objects::new();
    for (key, object) in keyed {
        assert!(all.insert(key.clone(), object).is_none(), "{key} is twice");
    }
    all
}

/// `config/default` as text.
pub fn kustomized() -> String {
    let folder = root("config/default");
    run(Command::new(KUBECTL).arg("kustomize").arg(folder)).unwrap()
}

/// A chart as text.
pub fn templated(chart: &str, values: &[&str]) -> Result<String, String> {
    let mut command = Command::new("helm");
    command
        .args(["template", "substrate", "--namespace", "ate-system"])
        .arg(root("charts").join(chart));
    values.iter().for_each(|v| {
        command.args(["--set", v]);
    });
    run(&mut command)
}

/// Pod templates by their owners' names.
pub fn pods(yaml: &str) -> Vec<(String, Value)> {
    let owners = objects(yaml).into_values();
    let templates = owners.filter_map(|owner| {
        let name = owner["metadata"]["name"].as_str()?.to_owned();
        Some((name, owner.pointer("/spec/template")?.clone()))
    });
    templates.filter(|(_, t)| t["spec"].is_object()).collect()
}

#[test]
fn secrets_are_read_where_the_operator_wants_it() {
    let yaml = templated("substrate", &["allowed.secrets=false"]).unwrap();
    let without = objects(&yaml);
    let all = objects(&templated("substrate", &[]).unwrap());
    let rest = all.keys().filter(|key| !without.contains_key(*key));
    assert_eq!(
        rest.collect::<Vec<_>>(),
        ["ClusterRoleBinding - ate:secret-reader"]
    );
}

#[test]
fn prometheus_finds_all_pods() {
    let all = [
        "ate-api-server",
        "ate-controller",
        "atelet",
        "atenet-router",
    ];
    for (name, pod) in pods(&templated("substrate", &["metrics.annotations=true"]).unwrap()) {
        let scraped = &pod["metadata"]["annotations"]["prometheus.io/port"];
        assert_eq!(scraped == "8081", all.contains(&&*name), "{name}");
    }
    let monitor = [
        "metrics.podMonitor.enabled=true",
        "metrics.podMonitor.labels.a=b",
    ];
    let objects = objects(&templated("substrate", &monitor).unwrap());
    let monitor = &objects["PodMonitor ate-system substrate"];
    assert_eq!(monitor["metadata"]["labels"]["a"], "b");
    let of = &monitor["spec"]["selector"]["matchExpressions"][0]["values"];
    let labels = objects
        .values()
        .filter(|o| all.iter().any(|name| o["metadata"]["name"] == *name));
    let labels = labels.filter_map(|o| o.pointer("/spec/template/metadata/labels/app"));
    assert_eq!(
        labels
            .filter(|label| of.as_array().unwrap().contains(label))
            .count(),
        4
    );
}

#[test]
fn charts_and_config_say_the_same() {
    let mut config = objects(&kustomized());
    let mut charts = objects(&templated("substrate", &[]).unwrap());
    let keep = templated("substrate-crds", &[]).unwrap();
    assert_eq!(keep.matches("helm.sh/resource-policy: keep").count(), 2);
    charts.extend(objects(
        &templated("substrate-crds", &["keep=false"]).unwrap(),
    ));
    // Helm makes namespaces itself; who applies config/ makes the keys.
    assert!(config.remove("Namespace - ate-system").is_some());
    assert!(charts.remove("Secret ate-system ate-objects").is_some());
    // For `helm test`.
    assert!(charts.remove("Pod ate-system ate-test").is_some());
    let names = |objects: &Objects| objects.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&config), names(&charts));
    for (key, object) in &config {
        let chart = serde_yaml_ng::to_string(&charts[key]).unwrap();
        let config = serde_yaml_ng::to_string(object).unwrap();
        assert!(
            object == &charts[key],
            "{key} in config/:\n{config}\nin the chart:\n{chart}"
        );
    }
}

#[test]
fn charts_are_clean() {
    let charts = ["substrate", "substrate-crds"].map(|chart| root("charts").join(chart));
    let mut lint = Command::new("helm");
    run(lint.args(["lint", "--strict"]).args(charts)).unwrap();
}

#[test]
fn values_that_the_chart_does_not_know_are_refused() {
    for (chart, values, named) in [
        ("substrate", &["router.replica=3"][..], "replica"),
        ("substrate", &["image.pullPolicy=Sometimes"], "pullPolicy"),
        ("substrate", &["store.url=store:6379"], "url"),
        ("substrate", &["store.bundled.maxMemory=lots"], "maxMemory"),
        ("substrate", &["tls.caBundle=aGVsbG8="], "tls"),
        ("substrate", &["snapshots.location=/data"], "location"),
        ("substrate", &["allowed.runtimes[0]=latest"], "runtimes"),
        ("substrate", &["leases.node=1"], "node"),
        ("substrate", &["store.bundled.enabled=false"], "store.url"),
        (
            "substrate",
            &["store.url=redis://a:1"],
            "store.bundled.enabled",
        ),
        ("substrate", &["objects.endpoint=http://a"], "endpoint"),
        (
            "substrate",
            &["objects.region=here"],
            "objects.bundled.enabled",
        ),
        ("substrate-crds", &["keep=maybe"], "keep"),
    ] {
        let said = templated(chart, values).unwrap_err();
        assert!(said.contains(named), "{values:?}: {said}");
    }
}

#[test]
fn values_arrive() {
    let elsewhere = objects(&templated("substrate", ELSEWHERE).unwrap());
    for ours in [" ate-store", " ate-objects"] {
        assert!(!elsewhere.keys().any(|key| key.ends_with(ours)));
    }
    let agent = &elsewhere["DaemonSet ate-system atelet"]["spec"]["template"]["spec"];
    let agent = agent.to_string();
    for said in [
        "--s3-endpoint=https://s3.example",
        "--s3-ca=/etc/ate/objects/ca.crt",
        r#"{"secretName":"s3-ca"}"#,
        r#"{"name":"s3-keys","optional":false}"#,
        r#"{"name":"AWS_REGION","value":"here"}"#,
    ] {
        assert!(agent.contains(said), "{said}: {agent}");
    }
    for name in ["ate-api-server", "ate-controller"] {
        let deployment = &elsewhere[&format!("Deployment ate-system {name}")];
        let container = &deployment["spec"]["template"]["spec"]["containers"][0];
        let args = container["args"].as_array().unwrap();
        assert!(args.contains(&"--store-cluster".into()), "{args:?}");
        assert!(!args.contains(&"--store-mutual-tls".into()), "{args:?}");
        let env = container["env"].to_string();
        assert!(
            env.contains("rediss://") && env.contains(r#""name":"elsewhere""#),
            "{env}"
        );
    }
    let forgetful =
        ["store", "objects"].map(|of| format!("{of}.bundled.persistence.enabled=false"));
    let forgetful = forgetful.each_ref().map(String::as_str);
    let forgetful = objects(&templated("substrate", &forgetful).unwrap());
    for name in ["ate-store", "ate-objects"] {
        let set = &forgetful[&format!("StatefulSet ate-system {name}")]["spec"];
        assert!(set["volumeClaimTemplates"].is_null());
        let data = set.pointer("/template/spec/volumes/1/emptyDir");
        assert!(data.is_some());
    }
}

#[test]
fn the_binary_knows_every_flag() {
    // The rest of the line is read before --help is answered.
    let knows = |args: &[String]| {
        run(Command::new(env!("CARGO_BIN_EXE_ate"))
            .args(args)
            .arg("--help"))
    };
    let (more, elsewhere) = (
        templated("substrate", MORE),
        templated("substrate", ELSEWHERE),
    );
    let mut seen = 0;
    for yaml in [kustomized(), more.unwrap(), elsewhere.unwrap()] {
        let containers = pods(&yaml).into_iter().flat_map(|(name, pod)| {
            let all = pod["spec"]["containers"].as_array().unwrap().clone();
            all.into_iter()
                .map(move |container| (name.clone(), container))
        });
        for (name, container) in containers.filter(|(_, c)| c["image"] == "ate:0.1.0") {
            let mut args: Vec<String> = serde_json::from_value(container["args"].clone()).unwrap();
            let said = knows(&args).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(said.contains(&format!("Usage: ate {}", args[0])), "{said}");
            args.push("--none-such".into());
            assert!(knows(&args).is_err());
            seen += 1;
        }
    }
    assert_eq!(seen, 16);
}

#[test]
fn the_image_holds_what_runs() {
    let dir = tempfile::tempdir().unwrap();
    let (tar, layer) = (dir.path().join("ate.tar"), dir.path().join("layer.tar"));
    let files = dir.path().join("root");
    let mut image = Command::new(root("e2e/image.sh"));
    image.arg("ate:0.1.0").arg(&tar).arg("65532");
    run(image.args([env!("CARGO_BIN_EXE_ate"), "runsc", "nft"])).unwrap();
    run(Command::new("crane")
        .args(["validate", "--tarball"])
        .arg(&tar))
    .unwrap();
    std::fs::create_dir(&files).unwrap();
    run(Command::new("tar")
        .arg("-xf")
        .arg(&tar)
        .arg("-C")
        .arg(dir.path()))
    .unwrap();
    run(Command::new("tar")
        .arg("-xf")
        .arg(&layer)
        .arg("-C")
        .arg(&files))
    .unwrap();
    let nobody = |program: &str| {
        // runsc looks into /proc.
        let mut command = Command::new("unshare");
        let proc = format!("--mount-proc={}", files.join("proc").display());
        command.args(["--pid", "--fork", &proc, "chroot", "--userspec=65532:65532"]);
        run(command.arg(&files).args([program, "--version"])).unwrap()
    };
    assert!(nobody("/usr/local/bin/ate").starts_with("ate "));
    assert!(nobody("/usr/local/bin/runsc").contains("release-"));
    assert!(nobody("/usr/local/bin/nft").starts_with("nftables "));
}

#[test]
fn the_dockerfile_has_the_runsc_of_setup() {
    let read = |path| std::fs::read_to_string(root(path)).unwrap();
    let (setup, dockerfile) = (read("e2e/setup.sh"), read("Dockerfile"));
    for (here, there) in [
        ("runsc_version=", "RUNSC_VERSION="),
        ("runsc_module=", "RUNSC_MODULE="),
    ] {
        let line = setup.split_once(here).unwrap().1;
        let value = line.lines().next().unwrap();
        assert!(dockerfile.contains(&format!("{there}{value}\n")), "{value}");
    }
}

#[test]
fn the_cluster_by_kind_is_one_that_the_tests_take() {
    let read = |path| std::fs::read_to_string(root(path)).unwrap();
    let yaml = |path| serde_yaml_ng::from_str::<Value>(&read(path)).unwrap();
    let (kind, chart) = (
        yaml("e2e/kind/kind.yaml"),
        yaml("charts/substrate/Chart.yaml"),
    );
    assert_eq!(kind["apiVersion"], "kind.x-k8s.io/v1alpha4");
    assert_eq!(kind["nodes"].as_array().unwrap().len(), 1);
    let (script, up) = (root("e2e/kind/up.sh"), read("e2e/kind/up.sh"));
    run(Command::new("bash").arg("-n").arg(script)).unwrap();
    let (name, version) = (kind["name"].as_str(), chart["appVersion"].as_str());
    assert!(up.contains(&format!("name={} ", name.unwrap())));
    assert!(up.contains(&format!("image=ate:{} ", version.unwrap())));
}
