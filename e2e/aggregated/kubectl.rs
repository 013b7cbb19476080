//! kubectl, as with a built-in kind: the one of the cluster's version, and the newest.

use super::harness::{Kubectl, Namespace, PATIENCE, actor, eventually, shared};
use crate::parts::look::{next_second, text};
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc;

macro_rules! with_each {
    ($($check:ident)*) => {
        mod of_the_cluster {
            $(#[test] fn $check() { super::$check(super::Kubectl::OfCluster) })*
        }
        mod newest {
            $(#[test] fn $check() { super::$check(super::Kubectl::Newest) })*
        }
    };
}

with_each! {
    check_07_create_once
    check_08_one_of_two_replacements_of_a_version_loses
    check_15_columns_wide_sorted_and_watched
    check_16_wait_returns
    check_17_apply_creates_changes_and_removes
    check_18_apply_on_the_server_creates_and_leaves_alone
    check_19_managers_that_differ_conflict
    check_20_a_dry_run_stores_nothing
    check_21_no_difference_after_apply
    check_22_unknown_fields
    check_23_explain
    check_24_a_finalizer_holds_what_is_deleted
    check_33_status_is_read_and_leaves_the_spec_alone
    an_actor_is_handled_as_a_built_in_kind_is
}

/// A kubectl that goes on printing; ends with its handle.
struct Watch(Child, mpsc::Receiver<String>);

impl Watch {
    fn start(ns: &Namespace, args: &[&str]) -> Self {
        let mut command = ns.client();
        let mut child = command.args(args).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut lines = lines.map_while(Result::ok);
            lines.try_for_each(|line| sender.send(line))
        });
        Self(child, receiver)
    }

    fn line(&mut self) -> String {
        self.1.recv_timeout(PATIENCE).expect("a line")
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn with_labels(name: &str, labels: &str) -> String {
    format!(
        "apiVersion: runtime.ate.dev/v1alpha1\nkind: Actor\nmetadata: {{name: {name}, labels: {labels}}}\nspec: {{templateRef: {{name: counter}}}}\n"
    )
}

fn version(ns: &Namespace, name: &str) -> String {
    ns.field(&format!("actor/{name}"), ".metadata.resourceVersion")
}

fn check_07_create_once(kubectl: Kubectl) {
    let c = shared();
    let ns = c.0.namespace_with(kubectl, "create");
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

fn check_08_one_of_two_replacements_of_a_version_loses(kubectl: Kubectl) {
    let c = shared();
    let ns = c.0.namespace_with(kubectl, "replace");
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

fn check_15_columns_wide_sorted_and_watched(kubectl: Kubectl) {
    let c = shared();
    let ns = c.0.namespace_with(kubectl, "columns");
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

    let mut watch = Watch::start(&ns, &["get", "actors", "-w", "--no-headers"]);
    let mut next = || watch.line();
    let first = [next(), next()];
    assert!(
        first[0].starts_with("a ") && first[1].starts_with("b "),
        "{first:?}"
    );
    ns.actor("c");
    assert!(next().starts_with("c "));
}

fn check_16_wait_returns(kubectl: Kubectl) {
    let c = shared();
    let ns = c.0.namespace_with(kubectl, "wait");
    let wait = |what: &'static str| {
        let mut command = ns.client();
        std::thread::spawn(move || {
            let output = command.args(["wait", what, "actor/a", "--timeout=60s"]);
            let output = output.output().unwrap();
            (output.status.success(), text(&output.stderr))
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

fn check_17_apply_creates_changes_and_removes(kubectl: Kubectl) {
    let c = shared();
    let ns = c.0.namespace_with(kubectl, "apply");
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

fn check_18_apply_on_the_server_creates_and_leaves_alone(kubectl: Kubectl) {
    let c = shared();
    let ns = c.0.namespace_with(kubectl, "server-side");
    let apply = || {
        ns.pipe(
            &["apply", "--server-side", "-f", "-"],
            &with_labels("a", "{x: '1'}"),
        )
    };
    assert!(apply().contains("serverside-applied"));
    let (made, managers) = (version(&ns, "a"), ".metadata.managedFields[*].manager");
    next_second();
    assert!(apply().contains("serverside-applied"));
    assert_eq!(version(&ns, "a"), made, "nothing changed");
    assert_eq!(ns.field("actor/a", managers), "kubectl");
    let dropped = with_labels("a", "{}");
    ns.pipe(&["apply", "--server-side", "-f", "-"], &dropped);
    assert_eq!(ns.field("actor/a", ".metadata.labels"), "");
    assert_eq!(ns.field("actor/a", ".metadata.generation"), "1");
}

fn check_19_managers_that_differ_conflict(kubectl: Kubectl) {
    let c = shared();
    let ns = c.0.namespace_with(kubectl, "conflict");
    let apply = |by: &str, labels: &str, more: &[&str]| {
        let by = format!("--field-manager={by}");
        let args = [&["apply", "--server-side", &by, "-f", "-"], more].concat();
        ns.try_pipe(&args, &with_labels("a", labels))
    };
    apply("one", "{tier: gold, x: '1'}", &[]).unwrap();
    let before = version(&ns, "a");
    let refused = apply("two", "{tier: iron}", &[]).unwrap_err();
    let said = r#"Apply failed with 1 conflict: conflict with "one": .metadata.labels.tier"#;
    assert!(refused.contains(said), "{refused}");
    assert_eq!(version(&ns, "a"), before);
    apply("two", "{tier: iron}", &["--force-conflicts"]).unwrap();
    assert_eq!(ns.field("actor/a", ".metadata.labels.tier"), "iron");
    assert_eq!(ns.field("actor/a", ".metadata.labels.x"), "1", "not theirs");
    let lost = apply("one", "{tier: gold, x: '1'}", &[]).unwrap_err();
    assert!(lost.contains(r#"conflict with "two""#), "{lost}");
    // What somebody wrote without applying is theirs too.
    ns.kubectl(&["label", "actor", "a", "x=2", "--overwrite"]);
    let both = apply("one", "{tier: gold, x: '1'}", &[]).unwrap_err();
    for part in ["2 conflicts", r#""kubectl-label""#, ".metadata.labels.x"] {
        assert!(both.contains(part), "{both}");
    }
}

fn check_20_a_dry_run_stores_nothing(kubectl: Kubectl) {
    let c = shared();
    let ns = c.0.namespace_with(kubectl, "dry");
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

fn check_21_no_difference_after_apply(kubectl: Kubectl) {
    let c = shared();
    let ns = c.0.namespace_with(kubectl, "diff");
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

fn check_22_unknown_fields(kubectl: Kubectl) {
    let c = shared();
    let ns = c.0.namespace_with(kubectl, "fields");
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

fn check_23_explain(kubectl: Kubectl) {
    let c = shared();
    let ns = c.0.namespace_with(kubectl, "explain");
    let said = ns.kubectl(&["explain", "actors.spec", "--recursive"]);
    for part in [
        "KIND:",
        "Actor",
        "templateRef",
        "operatingMode",
        "suspendAfter",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let one = ns.kubectl(&["explain", "actors.spec.operatingMode"]);
    assert!(
        one.contains("DESCRIPTION") && !one.contains("<empty>"),
        "{one}"
    );
}

fn check_24_a_finalizer_holds_what_is_deleted(kubectl: Kubectl) {
    let c = shared();
    let ns = c.0.namespace_with(kubectl, "finalizer");
    ns.actor("a");
    let held = r#"{"metadata": {"finalizers": ["test.ate.dev/hold"]}}"#;
    ns.kubectl(&["patch", "actor", "a", "--type=merge", "-p", held]);
    ns.kubectl(&["delete", "actor", "a", "--wait=false"]);
    assert!(
        !ns.field("actor/a", ".metadata.deletionTimestamp")
            .is_empty()
    );
    assert_eq!(ns.field("actor/a", ".metadata.generation"), "2");
    let form = r#"jsonpath={.type}{" "}{.object.metadata.name}{"\n"}"#;
    let mut watch = Watch::start(
        &ns,
        &["get", "actors", "-w", "--output-watch-events", "-o", form],
    );
    let mut next = || watch.line();
    assert_eq!(next(), "ADDED a");
    let free = r#"{"metadata": {"finalizers": null}}"#;
    ns.kubectl(&["patch", "actor", "a", "--type=merge", "-p", free]);
    let mut last = next();
    while last == "MODIFIED a" {
        last = next();
    }
    assert_eq!(last, "DELETED a");
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

/// What is in a status was observed: it is read like any other, and nobody but we write it. Who tries is told, whichever
/// way; what goes along with a write of the object itself changes nothing.
fn check_33_status_is_read_and_leaves_the_spec_alone(kubectl: Kubectl) {
    const STATUS: &str = "--subresource=status";
    let c = shared();
    let ns = c.0.namespace_with(kubectl, "status");
    ns.actor("a");
    let phase = [
        "get",
        "actor",
        "a",
        STATUS,
        "-o",
        "jsonpath={.status.phase}",
    ];
    assert_eq!(ns.kubectl(&phase), "Suspended");
    let table = ns.kubectl(&["get", "actor", "a", STATUS]);
    assert!(table.starts_with("NAME"), "{table}");

    let before = version(&ns, "a");
    let mut wrong: serde_json::Value =
        serde_json::from_str(&ns.kubectl(&["get", "actor", "a", "-o", "json"])).unwrap();
    wrong["spec"]["operatingMode"] = "Suspended".into();
    wrong["status"]["phase"] = "Running".into();
    let part = serde_json::json!({"spec": wrong["spec"], "status": wrong["status"]}).to_string();
    let mut applied: serde_json::Value = serde_json::from_str(&actor("a")).unwrap();
    applied["status"] = serde_json::json!({"phase": "Running"});
    let attempts = [
        ns.try_kubectl(&["patch", "actor", "a", STATUS, "--type=merge", "-p", &part]),
        ns.try_pipe(&["replace", STATUS, "-f", "-"], &wrong.to_string()),
        ns.try_pipe(
            &["apply", "--server-side", STATUS, "-f", "-"],
            &applied.to_string(),
        ),
    ];
    for attempt in attempts {
        let said = attempt.unwrap_err();
        let why = "the status of actors.runtime.ate.dev is read-only";
        assert!(
            said.contains("(MethodNotAllowed)") && said.contains(why),
            "{said}"
        );
    }
    assert_eq!(version(&ns, "a"), before);

    wrong["spec"]["operatingMode"] = "OnDemand".into();
    wrong["metadata"]["labels"] = serde_json::json!({"x": "1"});
    ns.pipe(&["replace", "-f", "-"], &wrong.to_string());
    assert_eq!(ns.field("actor/a", ".status.phase"), "Suspended");
    assert_eq!(ns.field("actor/a", ".metadata.labels.x"), "1");
    assert_eq!(ns.field("actor/a", ".metadata.generation"), "1");
}

/// The way of an actor as people go it with Deployments.
fn an_actor_is_handled_as_a_built_in_kind_is(kubectl: Kubectl) {
    let c = shared();
    let ns = c.0.namespace_with(kubectl, "built-in");
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/config/samples/actor.yaml");
    let apply = |more: &[&str]| ns.kubectl(&[&["apply", "-f", sample], more].concat());
    assert_eq!(apply(&[]).trim(), "actor.runtime.ate.dev/alice created");
    assert_eq!(apply(&[]).trim(), "actor.runtime.ate.dev/alice unchanged");

    let mut watch = Watch::start(&ns, &["get", "actors", "-o", "wide", "-w"]);
    let header = watch.line();
    assert!(
        header.starts_with("NAME") && header.contains("EPOCH"),
        "{header}"
    );
    let row = watch.line();
    let words: Vec<_> = row.split_whitespace().take(3).collect();
    assert_eq!(words, ["alice", "counter", "Suspended"]);
    // Its template comes late: the watch tells, and so does a wait.
    assert!(row.contains("False"), "{row}");
    ns.template();
    assert!(watch.line().contains("True"));
    let ready = "--for=condition=Ready";
    let said = ns.kubectl(&["wait", ready, "actor/alice", "--timeout=60s"]);
    assert_eq!(said.trim(), "actor.runtime.ate.dev/alice condition met");

    let described = ns.kubectl(&["describe", "actor", "alice"]);
    for part in [
        "Name:         alice",
        "API Version:  runtime.ate.dev/v1alpha1",
        "Kind:         Actor",
        "Template Ref:",
        "Conditions:",
        "Observed Generation:",
        "Events:",
    ] {
        assert!(described.contains(part), "{part}: {described}");
    }
    let explained = ns.kubectl(&["explain", "actor.spec", "--recursive"]);
    for part in ["templateRef\t<Object> -required-", "suspendAfter\t<string>"] {
        assert!(explained.contains(part), "{part}: {explained}");
    }
    assert_eq!(ns.kubectl(&["diff", "-f", sample]), "");

    // From client-side to server-side apply: the same fields, no conflict; the second time nothing.
    let said = apply(&["--server-side"]);
    assert_eq!(
        said.trim(),
        "actor.runtime.ate.dev/alice serverside-applied"
    );
    let before = version(&ns, "alice");
    apply(&["--server-side"]);
    assert_eq!(version(&ns, "alice"), before);

    let said = ns.kubectl(&["delete", "namespace", &ns.1, "--timeout=110s"]);
    assert!(said.contains("deleted"), "{said}");
    let left = ns.kubectl(&["get", "actors", "-o", "name"]);
    assert_eq!(left.trim(), "");
}
