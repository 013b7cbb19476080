//! The rules of the types, as a user meets them.

use super::*;
use crate::api::actor::ActorSpec;
use crate::api::pool::WorkerPoolSpec;
use crate::api::template::ActorTemplateSpec;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Violations of a spec as users write it.
fn check<S>(spec: &Value) -> Vec<Violation>
where
    S: Validate<Context = ()> + DeserializeOwned + Serialize,
{
    let typed: S = serde_json::from_value(spec.clone()).unwrap();
    object("name", "ns", &typed)
}

/// The one violation, as `path: message`.
fn only<S>(spec: &Value) -> String
where
    S: Validate<Context = ()> + DeserializeOwned + Serialize,
{
    let all = check::<S>(spec);
    assert_eq!(all.len(), 1, "{spec}: {all:?}");
    all[0].to_string()
}

fn image() -> String {
    format!("app@sha256:{}", "0".repeat(64))
}

/// A good template with `change` merged in.
fn template(change: &Value) -> Value {
    let mut spec = json!({"containers": [{"name": "app", "image": image()}]});
    json_patch::merge(&mut spec, change);
    spec
}

/// A good template whose only container has `change` merged in.
fn container(change: &Value) -> Value {
    let mut container = json!({"name": "app", "image": image()});
    json_patch::merge(&mut container, change);
    json!({"containers": [container]})
}

#[test]
fn good_objects_pass() {
    let full = json!({
        "name": "app", "image": image(), "workingDir": "/srv",
        "env": [{"name": "A", "value": ""}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
        "ports": [{"containerPort": 1}, {"containerPort": 65535}],
        "readyz": {"httpGet": {"path": "/", "port": 80}, "timeoutSeconds": 600},
        "resources": {"limits": {"memory": "1.5Gi", "cpu": 2}, "requests": {"memory": "64Mi", "cpu": "250m"}},
    });
    let build = json!({"url": "https://x/runsc", "sha256Hash": "a".repeat(64)});
    let spec = json!({
        "containers": [full], "workerSelector": {"matchLabels": {"a_b": "c"}}, "imagePullSecrets": [{"name": "s"}],
        "snapshotsConfig": {"location": "s3://bucket/prefix"}, "golden": {"settleSeconds": 3600},
        "runsc": {"amd64": build, "arm64": build}, "retention": {"snapshots": 1}, "allowedNamespaces": ["a"],
    });
    assert_eq!(check::<ActorTemplateSpec>(&spec), vec![]);
    assert_eq!(check::<WorkerPoolSpec>(&json!({"replicas": 0})), vec![]);
    let spec =
        json!({"templateRef": {"name": "t", "namespace": "n"}, "operatingMode": "Suspended"});
    assert_eq!(check::<ActorSpec>(&spec), vec![]);
}

#[test]
fn names_and_namespaces_of_every_kind_are_labels() {
    let spec: WorkerPoolSpec = serde_json::from_value(json!({"replicas": 1})).unwrap();
    let fields: Vec<_> = object("A", "", &spec)
        .into_iter()
        .map(|v| (v.field, v.cause))
        .collect();
    let of = |field: &str, cause| (field.to_owned(), cause);
    assert_eq!(
        fields,
        [
            of("metadata.name", Cause::Invalid),
            of("metadata.namespace", Cause::Required)
        ]
    );
}

#[test]
fn violations_name_the_field_and_the_fix() {
    let all: Vec<_> = object("A", "ns", &ActorSpec::default())
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(all.len(), 2, "{all:?}");
    assert!(all[0].starts_with("metadata.name: \"A\" is not a DNS label"));
    assert_eq!(all[1], "spec.templateRef.name: name the ActorTemplate");
}

#[test]
fn rules_of_actors() {
    for (change, said) in [
        (
            json!({"templateRef": {"name": "a".repeat(254)}}),
            "spec.templateRef.name: is too long: at most 253",
        ),
        (
            json!({"templateRef": {"namespace": "N"}}),
            "spec.templateRef.namespace: \"N\" is not a DNS label",
        ),
        (
            json!({"operatingMode": "Running"}),
            "spec.operatingMode: Running is not supported",
        ),
        (
            json!({"from": {"actor": "other"}}),
            "spec.from: is not supported",
        ),
        (
            json!({"idle": {"suspendAfter": "1h"}}),
            "spec.idle.suspendAfter: is not supported",
        ),
        (
            json!({"idle": {"pauseAfter": "1h"}}),
            "spec.idle.pauseAfter: is not supported",
        ),
        (
            json!({"workerSelector": {"matchExpressions": [{"key": "a", "operator": "Gt"}]}}),
            "spec.workerSelector: matchExpressions[0]: operator must be",
        ),
    ] {
        let mut spec = json!({"templateRef": {"name": "t"}});
        json_patch::merge(&mut spec, &change);
        let found = only::<ActorSpec>(&spec);
        assert!(found.starts_with(said), "{found}");
    }
}

#[test]
fn rules_of_pools() {
    for (change, said) in [
        (json!({"replicas": -1}), "spec.replicas: must be 0 or more"),
        (
            json!({"freeWorkers": 1}),
            "spec.freeWorkers: is not supported",
        ),
        (
            json!({"onLeaseLoss": "Continue"}),
            "spec.onLeaseLoss: is not supported",
        ),
        (
            json!({"sandboxClass": "criu"}),
            "spec.sandboxClass: is not supported",
        ),
    ] {
        let mut spec = json!({"replicas": 1});
        json_patch::merge(&mut spec, &change);
        let found = only::<WorkerPoolSpec>(&spec);
        assert!(found.starts_with(said), "{found}");
    }
}

#[test]
fn rules_of_templates() {
    let build = |url: &str, sum: &str| json!({"runsc": {"arm64": {"url": url, "sha256Hash": sum}}});
    let sum = "a".repeat(64);
    for (change, said) in [
        (
            json!({"containers": []}),
            "spec.containers: name at least one container",
        ),
        (
            json!({"workerSelector": {}, "workerPoolRef": {"name": "p"}}),
            "spec.workerPoolRef: give either workerPoolRef or workerSelector",
        ),
        (
            json!({"workerSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}),
            "spec.workerSelector: matchExpressions[0]: values must not be empty",
        ),
        (
            json!({"snapshotsConfig": {"location": "/var"}}),
            "spec.snapshotsConfig.location: must begin with s3://, gs:// or file://",
        ),
        (
            json!({"snapshotsConfig": {"onPause": "Data"}}),
            "spec.snapshotsConfig.onPause: is not supported",
        ),
        (
            json!({"snapshotsConfig": {"onCommit": "Data"}}),
            "spec.snapshotsConfig.onCommit: is not supported",
        ),
        (
            json!({"sandboxClass": "microvm"}),
            "spec.sandboxClass: is not supported",
        ),
        (
            json!({"volumes": [{"name": "v"}]}),
            "spec.volumes: is not supported",
        ),
        (
            json!({"postRestore": {}}),
            "spec.postRestore: is not supported",
        ),
        (
            json!({"retention": {"snapshots": 0}}),
            "spec.retention.snapshots: must be 1 or more",
        ),
        (
            json!({"retention": {"snapshots": 2}}),
            "spec.retention.snapshots: more than 1 is not supported",
        ),
        (json!({"onExit": "Resume"}), "spec.onExit: is not supported"),
        (
            json!({"idle": {"drainTimeout": "5s"}}),
            "spec.idle.drainTimeout: is not supported",
        ),
        (
            json!({"idle": {"cpuBelow": "10m"}}),
            "spec.idle.cpuBelow: is not supported",
        ),
        (
            json!({"golden": {"settleSeconds": -1}}),
            "spec.golden.settleSeconds: must be 0 or more",
        ),
        (
            json!({"golden": {"settleSeconds": 3601}}),
            "spec.golden.settleSeconds: must be 3600 or less",
        ),
        (
            build("ftp://x", &sum),
            "spec.runsc.arm64.url: must begin with https://, gs://, s3:// or file://",
        ),
        (
            build("https://x", "12"),
            "spec.runsc.arm64.sha256Hash: must be 64 lower-case hex digits",
        ),
        (
            json!({"allowedNamespaces": ["ok", "No"]}),
            "spec.allowedNamespaces[1]: \"No\" is not a DNS label",
        ),
        (
            json!({"allowedNamespaces": vec!["a"; 257]}),
            "spec.allowedNamespaces: is too long: at most 256",
        ),
    ] {
        let found = only::<ActorTemplateSpec>(&template(&change));
        assert!(found.starts_with(said), "{found}");
    }
}

#[test]
fn rules_of_containers() {
    let probe =
        |get: Value, seconds: i32| json!({"readyz": {"httpGet": get, "timeoutSeconds": seconds}});
    for (change, said) in [
        (json!({"name": "App"}), "name: \"App\" is not a DNS label"),
        (
            json!({"image": "python:3"}),
            "image: \"python:3\" is not pinned by digest",
        ),
        (
            json!({"env": [{"name": "A=B"}]}),
            "env[0].name: must not be empty or contain '='",
        ),
        (
            json!({"env": [{"name": "A", "value": "", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}),
            "env[0]: give either value or valueFrom",
        ),
        (
            json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "", "key": "k"}}}]}),
            "env[0].valueFrom.secretKeyRef.name: name the Secret",
        ),
        (
            json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": ""}}}]}),
            "env[0].valueFrom.secretKeyRef.key: name a key of the Secret",
        ),
        (
            json!({"ports": [{"containerPort": 1}, {"containerPort": 0}]}),
            "ports[1].containerPort: must be 1 or more",
        ),
        (
            json!({"ports": [{"containerPort": 65536}]}),
            "ports[0].containerPort: must be 65535 or less",
        ),
        (
            probe(json!({"port": 0}), 1),
            "readyz.httpGet.port: must be 1 or more",
        ),
        (
            probe(json!({"port": 1, "path": "ok"}), 1),
            "readyz.httpGet.path: must begin with '/'",
        ),
        (
            probe(json!({"port": 1}), 601),
            "readyz.timeoutSeconds: must be 600 or less",
        ),
        (
            json!({"workingDir": "srv"}),
            "workingDir: must begin with '/'",
        ),
        (
            json!({"resources": {"limits": {"memory": "lots"}}}),
            "resources: limits.memory \"lots\" is not a quantity",
        ),
        (
            json!({"resources": {"limits": {"nvidia.com/gpu": 1}}}),
            "resources: limits.\"nvidia.com/gpu\" is not supported",
        ),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}),
            "volumeMounts: is not supported",
        ),
    ] {
        let found = only::<ActorTemplateSpec>(&container(&change));
        assert!(
            found.starts_with(&format!("spec.containers[0].{said}")),
            "{found}"
        );
    }
}

#[test]
fn containers_are_few_and_have_names_of_their_own() {
    let of = |names: &[String]| {
        let all: Vec<_> = names
            .iter()
            .map(|n| json!({"name": n, "image": image()}))
            .collect();
        check::<ActorTemplateSpec>(&json!({"containers": all}))
    };
    let many: Vec<_> = (0..17).map(|i| format!("c{i}")).collect();
    assert_eq!(of(&many[..16]), vec![]);
    assert_eq!(
        of(&many)[0].to_string(),
        "spec.containers: is too long: at most 16 are possible"
    );
    let twice = of(&["a".into(), "b".into(), "a".into()]);
    let fields: Vec<_> = twice.iter().map(|v| v.field.as_str()).collect();
    assert_eq!(
        fields,
        ["spec.containers[0].name", "spec.containers[2].name"]
    );
    assert!(twice[0].message.starts_with("\"a\" is there twice"));
}

#[test]
fn causes_are_those_of_kubernetes() {
    let cause = |spec: &Value| check::<ActorTemplateSpec>(spec)[0].cause;
    assert_eq!(
        cause(&template(&json!({"containers": []}))),
        Cause::Required
    );
    assert_eq!(cause(&container(&json!({"image": ""}))), Cause::Required);
    assert_eq!(cause(&container(&json!({"image": "a"}))), Cause::Invalid);
    assert_eq!(
        cause(&container(
            &json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]})
        )),
        Cause::NotSupported
    );
    for cause in Cause::ALL {
        let error = cause.error("text");
        assert_eq!(Cause::split(error.message()), (cause, "text".to_owned()));
    }
    assert_eq!(
        Cause::split("garde's own"),
        (Cause::Invalid, "garde's own".to_owned())
    );
    // A user's text cannot pass for a cause.
    let forged = format!("FieldValueRequired{CAUSE_END}x");
    let all = check::<ActorTemplateSpec>(&container(&json!({"image": forged})));
    assert_eq!((all.len(), all[0].cause), (1, Cause::Invalid));
    assert!(!all[0].message.contains(CAUSE_END), "{}", all[0].message);
}

#[test]
fn an_object_with_more_wrong_than_anyone_reads_is_cut_short() {
    let bad: Vec<_> = (0..MAX_VIOLATIONS * 2)
        .map(|_| json!({"name": ""}))
        .collect();
    let all = check::<ActorTemplateSpec>(&container(&json!({"env": bad})));
    assert_eq!(all.len(), MAX_VIOLATIONS);
}

/// Names of properties, of our own types and those within.
fn names(schema: &Value, into: &mut BTreeSet<String>) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::Object(properties)) = map.get("properties") {
                into.extend(properties.keys().cloned());
            }
            map.values().for_each(|inner| names(inner, into));
        }
        Value::Array(all) => all.iter().for_each(|inner| names(inner, into)),
        _ => {}
    }
}

fn snake_case(name: &str) -> String {
    let of = |c: char| match c.is_ascii_uppercase() {
        true => format!("_{}", c.to_ascii_lowercase()),
        false => c.to_string(),
    };
    name.chars().map(of).collect()
}

#[test]
fn every_name_in_the_schemas_can_be_told_from_its_name_in_rust() {
    let mut all = BTreeSet::new();
    for schema in [
        schemars::schema_for!(ActorSpec),
        schemars::schema_for!(ActorTemplateSpec),
        schemars::schema_for!(WorkerPoolSpec),
    ] {
        names(schema.as_value(), &mut all);
    }
    assert!(all.len() > 50 && all.contains("sha256Hash"), "{all:?}");
    for name in &all {
        assert_eq!(camel_case(&snake_case(name)), *name);
    }
}

/// The value at a path of Kubernetes' form.
fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    let pointer = path.replace(['.', '['], "/").replace(']', "");
    object.pointer(&format!("/{pointer}"))
}

#[test]
fn every_path_is_there_in_what_the_user_wrote() {
    let build = json!({"url": "", "sha256Hash": ""});
    let later =
        json!({"suspendAfter": "x", "pauseAfter": "x", "drainTimeout": "x", "cpuBelow": "x"});
    let container = json!({
        "name": "", "image": "", "workingDir": "", "resources": {"limits": {"memory": 0}},
        "env": [{"name": "", "valueFrom": {"secretKeyRef": {"name": "", "key": ""}}}],
        "ports": [{"containerPort": 0}], "volumeMounts": [{"name": "", "mountPath": ""}],
        "readyz": {"httpGet": {"path": "", "port": 0}, "timeoutSeconds": 0},
    });
    let spec = json!({
        "containers": [container], "volumes": [{"name": ""}], "idle": later, "retention": {"snapshots": 0},
        "snapshotsConfig": {"location": "", "onPause": "Data", "onCommit": "Data"}, "sandboxClass": "criu",
        "workerPoolRef": {}, "workerSelector": {"matchExpressions": [{"key": "", "operator": ""}]},
        "runsc": {"amd64": build, "arm64": build}, "golden": {"settleSeconds": -1}, "onExit": "Resume",
        "postRestore": {}, "allowedNamespaces": [""],
    });
    let all = check::<ActorTemplateSpec>(&spec);
    let paths: BTreeSet<_> = all.iter().map(|v| v.field.clone()).collect();
    assert!(paths.len() >= 30, "{paths:#?}");
    let object = json!({"metadata": {}, "spec": spec});
    for path in paths {
        assert!(at(&object, &path).is_some(), "{path}");
    }
}

#[test]
fn what_must_be_removed_is_said_once() {
    let idle = json!({"idle": {"suspendAfter": "soon", "drainTimeout": "soon"}});
    let all = check::<ActorTemplateSpec>(&template(&idle));
    let fields: Vec<_> = all.iter().map(|v| (v.field.as_str(), v.cause)).collect();
    assert_eq!(
        fields,
        [
            ("spec.idle.drainTimeout", Cause::NotSupported),
            ("spec.idle.suspendAfter", Cause::NotSupported)
        ]
    );
}
