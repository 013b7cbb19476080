//! The API as the cluster sees it: there, away, back.

use super::harness::{Cluster, alone_first, eventually, shared};
use super::namespace::Kubectl;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

const APISERVICE: &str = "v1alpha1.runtime.ate.dev";

fn available(c: &Cluster) -> String {
    let path = r#"jsonpath={.status.conditions[?(@.type=="Available")].status}"#;
    c.try_kubectl(&["get", "apiservice", APISERVICE, "-o", path])
        .unwrap_or_default()
}

#[test]
fn check_03_a_rolling_restart_is_not_noticed() {
    let c = alone_first();
    assert_eq!(available(&c), "True");
    let mut watch = c
        .with(Kubectl::Newest)
        .args(["get", "apiservice", APISERVICE, "-w", "-o"])
        .arg(r#"jsonpath={.status.conditions[?(@.type=="Available")]}{"\n"}"#)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let seen = std::thread::spawn(move || lines.map_while(Result::ok).collect::<Vec<_>>());
    for n in 0..super::harness::REPLICAS {
        c.route(&[1 - n]);
        eventually("Kubernetes knows the way around", || {
            let port = c.field(
                "ate-system",
                "endpoints/ate-apiserver",
                ".subsets[*].ports[*].port",
            );
            (port.split(' ').count() == 1).then_some(())
        });
        c.stop_replica(n);
        (0..20).for_each(|_| drop(c.kubectl(&["get", "actors", "-A"])));
        c.start_replica(n);
        c.route(&[0, 1]);
    }
    (0..20).for_each(|_| drop(c.kubectl(&["get", "actors", "-A"])));
    let _ = watch.kill();
    let _ = watch.wait();
    let seen = seen.join().unwrap();
    assert!(!seen.is_empty(), "the watch said something");
    let unavailable: Vec<_> = seen
        .iter()
        .filter(|l| !l.contains(r#""status":"True""#))
        .collect();
    assert!(unavailable.is_empty(), "{unavailable:?}");
}

#[test]
fn check_04_discovery_lists_actors() {
    let c = shared();
    let said = c.kubectl(&["api-resources", "--api-group=runtime.ate.dev"]);
    let line = said
        .lines()
        .find(|l| l.starts_with("actors "))
        .unwrap_or_else(|| panic!("{said}"));
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(words[1], "act");
    assert_eq!(
        &words[words.len() - 3..],
        ["runtime.ate.dev/v1alpha1", "true", "Actor"]
    );
    for bad in ["stale", "error", "couldn't"] {
        assert!(!said.contains(bad), "{said}");
    }
    let aggregated = c.kubectl(&["get", "--raw", "/apis"]);
    assert!(aggregated.contains("runtime.ate.dev"), "{aggregated}");
}

#[test]
fn check_05_away_is_said_and_unrelated_namespaces_recover() {
    let c = alone_first();
    let ns = c.0.namespace("unrelated");
    (0..super::harness::REPLICAS).for_each(|n| c.stop_replica(n));
    eventually("the API is known to be away", || {
        (available(&c) == "False").then_some(())
    });
    c.kubectl(&["delete", "namespace", &ns.1, "--wait=false"]);
    let failed = r#".status.conditions[?(@.type=="NamespaceDeletionDiscoveryFailure")].status"#;
    eventually("the namespace says what holds it", || {
        let path = format!("namespace/{}", ns.1);
        (c.field("", &path, failed) == "True").then_some(())
    });
    (0..super::harness::REPLICAS).for_each(|n| c.start_replica(n));
    eventually("the API is back", || {
        (available(&c) == "True").then_some(())
    });
    c.kubectl(&[
        "wait",
        "--for=delete",
        &format!("namespace/{}", ns.1),
        "--timeout=110s",
    ]);
}

#[test]
fn check_06_a_namespace_goes_with_its_actors() {
    let c = shared();
    let ns = c.0.namespace("full");
    (0..5).for_each(|n| ns.actor(&format!("a{n}")));
    let held = r#"{"metadata": {"finalizers": ["test.ate.dev/hold"]}}"#;
    ns.kubectl(&["patch", "actor", "a0", "--type=merge", "-p", held]);
    c.kubectl(&["delete", "namespace", &ns.1, "--wait=false"]);
    eventually("only the one that is held is left", || {
        let left = ns.try_kubectl(&["get", "actors", "-o", "name"]).ok()?;
        (left.trim() == "actor.runtime.ate.dev/a0").then_some(())
    });
    assert!(
        !ns.field("actor/a0", ".metadata.deletionTimestamp")
            .is_empty()
    );
    let free = r#"{"metadata": {"finalizers": null}}"#;
    ns.kubectl(&["patch", "actor", "a0", "--type=merge", "-p", free]);
    c.kubectl(&[
        "wait",
        "--for=delete",
        &format!("namespace/{}", ns.1),
        "--timeout=110s",
    ]);
    let namespaces = "jsonpath={.items[*].metadata.namespace}";
    let left = c.kubectl(&["get", "actors", "-A", "-o", namespaces]);
    assert!(!left.split(' ').any(|of| of == ns.1), "{left}");
}
