//! kubectl, as with a built-in kind.

use super::harness::{Namespace, actor, eventually, shared};
use std::io::{BufRead, BufReader};
use std::process::Stdio;

fn with_labels(name: &str, labels: &str) -> String {
    format!(
        "apiVersion: runtime.ate.dev/v1alpha1\nkind: Actor\nmetadata: {{name: {name}, labels: {labels}}}\nspec: {{templateRef: {{name: counter}}}}\n"
    )
}

fn version(ns: &Namespace, name: &str) -> String {
    ns.field(&format!("actor/{name}"), ".metadata.resourceVersion")
}

#[test]
fn check_07_create_once() {
    let c = shared();
    let ns = c.0.namespace("create");
    let said = ns.pipe(&["create", "-f", "-", "-v=6"], &actor("a"));
    assert!(
        said.contains("actor.runtime.ate.dev/a created") && said.contains("201"),
        "{said}"
    );
    let again = ns
        .try_pipe(&["create", "-f", "-"], &actor("a"))
        .unwrap_err();
    assert!(again.contains("(AlreadyExists)"), "{again}");
    assert!(
        again.contains(r#"actors.runtime.ate.dev "a" already exists"#),
        "{again}"
    );
}

#[test]
fn check_08_one_of_two_replacements_of_a_version_loses() {
    let c = shared();
    let ns = c.0.namespace("replace");
    ns.actor("a");
    let object = ns.kubectl(&["get", "actor", "a", "-o", "json"]);
    let changed = |value: &str| {
        let mut object: serde_json::Value = serde_json::from_str(&object).unwrap();
        object["metadata"]["labels"]["x"] = value.into();
        object.to_string()
    };
    let (one, two) = (changed("1"), changed("2"));
    let outcomes = std::thread::scope(|s| {
        let other = s.spawn(|| ns.try_pipe(&["replace", "-f", "-"], &two));
        [
            ns.try_pipe(&["replace", "-f", "-"], &one),
            other.join().unwrap(),
        ]
    });
    let errors: Vec<_> = outcomes.iter().filter_map(|o| o.as_ref().err()).collect();
    assert_eq!(errors.len(), 1, "{outcomes:?}");
    assert!(errors[0].contains("(Conflict)"), "{errors:?}");
}

#[test]
fn check_15_columns_wide_sorted_and_watched() {
    let c = shared();
    let ns = c.0.namespace("columns");
    ns.actor("b");
    ns.actor("a");
    let plain = ns.kubectl(&["get", "actors"]);
    let header: Vec<_> = plain.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(
        header,
        ["NAME", "TEMPLATE", "PHASE", "READY", "WORKER", "AGE"]
    );
    let wide = ns.kubectl(&["get", "act", "-o", "wide"]);
    for column in [
        "MODE",
        "NODE",
        "IP",
        "SNAPSHOT",
        "SIZE",
        "LAST-ACTIVE",
        "EPOCH",
    ] {
        assert!(wide.lines().next().unwrap().contains(column), "{wide}");
    }
    let sorted = ns.kubectl(&[
        "get",
        "actors",
        "--sort-by=.metadata.creationTimestamp",
        "-o",
        "name",
    ]);
    assert_eq!(sorted.lines().count(), 2);
    let sorted = ns.kubectl(&["get", "actors", "--sort-by=.metadata.name"]);
    let names: Vec<_> = sorted
        .lines()
        .skip(1)
        .map(|l| l.split(' ').next().unwrap())
        .collect();
    assert_eq!(names, ["a", "b"]);

    let mut watch = c
        .client("kubectl")
        .args(["-n", &ns.1, "get", "actors", "-w", "--no-headers"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    let first = [next(), next()];
    assert!(
        first[0].starts_with("a ") && first[1].starts_with("b "),
        "{first:?}"
    );
    ns.actor("c");
    assert!(next().starts_with("c "));
    let _ = watch.kill();
    let _ = watch.wait();
}

#[test]
fn check_16_wait_returns() {
    let c = shared();
    let ns = c.0.namespace("wait");
    let wait = |what: &'static str| {
        let (namespace, mut command) = (ns.1.clone(), c.client("kubectl"));
        std::thread::spawn(move || {
            let output = command
                .args(["-n", &namespace, "wait", what, "actor/a", "--timeout=60s"])
                .output()
                .unwrap();
            (
                output.status.success(),
                crate::parts::look::text(&output.stderr),
            )
        })
    };
    ns.template();
    let created = wait("--for=create");
    ns.actor("a");
    let (ok, said) = created.join().unwrap();
    assert!(ok, "{said}");
    let (ok, said) = wait("--for=jsonpath={.status.phase}=Suspended")
        .join()
        .unwrap();
    assert!(ok, "{said}");
    // Ready says whether a request would be served: an actor at rest is.
    let (ok, said) = wait("--for=condition=Ready").join().unwrap();
    assert!(ok, "{said}");
    let deleted = wait("--for=delete");
    ns.kubectl(&["delete", "actor", "a", "--wait=false"]);
    let (ok, said) = deleted.join().unwrap();
    assert!(ok, "{said}");
}

#[test]
fn check_17_apply_creates_changes_and_removes() {
    let c = shared();
    let ns = c.0.namespace("apply");
    let apply = |labels: &str| ns.pipe(&["apply", "-f", "-"], &with_labels("a", labels));
    assert!(apply("{x: '1', y: '1'}").contains("created"));
    assert!(apply("{x: '1', y: '1'}").contains("unchanged"));
    ns.kubectl(&["label", "actor", "a", "other=kept"]);
    assert!(apply("{x: '2'}").contains("configured"));
    let labels: serde_json::Value =
        serde_json::from_str(&ns.field("actor/a", ".metadata.labels")).unwrap();
    assert_eq!(labels, serde_json::json!({"x": "2", "other": "kept"}));
    assert_eq!(ns.field("actor/a", ".metadata.generation"), "1");
}

#[test]
fn check_20_a_dry_run_stores_nothing() {
    let c = shared();
    let ns = c.0.namespace("dry");
    let dry = "--dry-run=server";
    let said = ns.pipe(&["apply", dry, "-f", "-"], &with_labels("a", "{}"));
    assert!(said.contains("created (server dry run)"), "{said}");
    assert_eq!(ns.kubectl(&["get", "actors", "-o", "name"]).trim(), "");
    ns.actor("a");
    let before = version(&ns, "a");
    let patch = r#"{"metadata": {"labels": {"x": "1"}}}"#;
    let patched = ns.kubectl(&[
        "patch",
        "actor",
        "a",
        "--type=merge",
        "-p",
        patch,
        dry,
        "-o",
        "json",
    ]);
    assert!(patched.contains(r#""x": "1""#), "{patched}");
    ns.kubectl(&["delete", "actor", "a", dry]);
    assert_eq!(version(&ns, "a"), before);
}

#[test]
fn check_21_no_difference_after_apply() {
    let c = shared();
    let ns = c.0.namespace("diff");
    ns.pipe(&["apply", "-f", "-"], &with_labels("a", "{x: '1'}"));
    assert_eq!(
        ns.pipe(&["diff", "-f", "-"], &with_labels("a", "{x: '1'}"))
            .trim(),
        ""
    );
    let differs = ns
        .try_pipe(&["diff", "-f", "-"], &with_labels("a", "{x: '2'}"))
        .unwrap_err();
    assert!(differs.contains("+    x: \"2\""), "{differs}");
}

#[test]
fn check_22_unknown_fields() {
    let c = shared();
    let ns = c.0.namespace("fields");
    let object = |name: &str| {
        let mut object: serde_json::Value = serde_json::from_str(&actor(name)).unwrap();
        object["spec"]["colour"] = "red".into();
        object.to_string()
    };
    let create = |name: &str, how: &str| {
        let how = format!("--validate={how}");
        ns.try_pipe(&["create", &how, "-f", "-"], &object(name))
    };
    let refused = create("a", "strict").unwrap_err();
    assert!(
        refused.contains(r#"unknown field "spec.colour""#),
        "{refused}"
    );
    let warned = create("b", "warn").unwrap();
    assert!(
        warned.contains(r#"Warning: unknown field "spec.colour""#),
        "{warned}"
    );
    let silent = create("d", "ignore").unwrap();
    assert!(!silent.contains("Warning"), "{silent}");
    for name in ["b", "d"] {
        assert_eq!(ns.field(&format!("actor/{name}"), ".spec.colour"), "");
    }
}

#[test]
fn check_23_explain() {
    let c = shared();
    let said = c.kubectl(&["explain", "actors.spec", "--recursive"]);
    for part in [
        "KIND:",
        "Actor",
        "templateRef",
        "operatingMode",
        "suspendAfter",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let one = c.kubectl(&["explain", "actors.spec.operatingMode"]);
    assert!(
        one.contains("DESCRIPTION") && !one.contains("<empty>"),
        "{one}"
    );
}

#[test]
fn check_24_a_finalizer_holds_what_is_deleted() {
    let c = shared();
    let ns = c.0.namespace("finalizer");
    ns.actor("a");
    let held = r#"{"metadata": {"finalizers": ["test.ate.dev/hold"]}}"#;
    ns.kubectl(&["patch", "actor", "a", "--type=merge", "-p", held]);
    ns.kubectl(&["delete", "actor", "a", "--wait=false"]);
    assert!(
        !ns.field("actor/a", ".metadata.deletionTimestamp")
            .is_empty()
    );
    assert_eq!(ns.field("actor/a", ".metadata.generation"), "2");
    let mut watch = c
        .client("kubectl")
        .args([
            "-n",
            &ns.1,
            "get",
            "actors",
            "-w",
            "--output-watch-events",
            "-o",
        ])
        .arg("jsonpath={.type}{\" \"}{.object.metadata.name}{\"\\n\"}")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert_eq!(next(), "ADDED a");
    let free = r#"{"metadata": {"finalizers": null}}"#;
    ns.kubectl(&["patch", "actor", "a", "--type=merge", "-p", free]);
    let mut last = next();
    while last == "MODIFIED a" {
        last = next();
    }
    assert_eq!(last, "DELETED a");
    let _ = watch.kill();
    let _ = watch.wait();
}

/// Either may own the other; with its owner what is owned goes.
#[test]
fn check_34_the_garbage_collector_knows_actors() {
    let c = shared();
    let ns = c.0.namespace("owned");
    ns.actor("owner");
    ns.kubectl(&["create", "configmap", "owner"]);
    let owned = |kind: &str, api: &str, owner: &str, what: &str| {
        let uid = ns.field(&format!("{kind}/{owner}"), ".metadata.uid");
        let reference =
            serde_json::json!([{"apiVersion": api, "kind": kind, "name": owner, "uid": uid}]);
        let patch = serde_json::json!({"metadata": {"ownerReferences": reference}});
        ns.kubectl(&["patch", what, "--type=merge", "-p", &patch.to_string()]);
    };
    ns.kubectl(&["create", "configmap", "owned"]);
    ns.actor("owned");
    owned(
        "Actor",
        "runtime.ate.dev/v1alpha1",
        "owner",
        "configmap/owned",
    );
    owned("ConfigMap", "v1", "owner", "actor/owned");
    ns.kubectl(&["delete", "actor/owner"]);
    ns.kubectl(&["delete", "configmap/owner"]);
    for what in ["configmap/owned", "actor/owned"] {
        eventually(what, || {
            ns.try_kubectl(&["get", what]).is_err().then_some(())
        });
    }
}
