//! What a template says of its sandboxes: what they may take, and what is said when they end.

use super::harness::{Dev, eventually, image};

/// A template of the test server with `more` in its only container.
fn template(dev: &Dev, name: &str, more: &str) -> String {
    format!("{}    {more}\n", dev.template(name, &image()))
}

fn ready(dev: &Dev, template: &str) {
    let name = format!("actortemplate/{template}");
    dev.kubectl(&["wait", "--for=condition=Ready", &name, "--timeout=90s"]);
}

/// The reason and the message of a condition of an actor.
fn condition(dev: &Dev, actor: &str, name: &str) -> (String, String) {
    let of = |what: &str| {
        let path = format!(".status.conditions[?(@.type==\"{name}\")].{what}");
        dev.field(actor, &path)
    };
    (of("reason"), of("message"))
}

/// Until it was rolled back for `reason`; what is said of it.
fn rolled_back(dev: &Dev, actor: &str, reason: &str) -> String {
    eventually(reason, || {
        let (said, message) = condition(dev, actor, "RolledBack");
        (said == reason).then_some(message)
    })
}

#[test]
fn a_sandbox_has_its_limits_and_its_end_is_told() {
    let mut dev = Dev::start(&[]);
    dev.with_counter(1);
    let limits = "resources: {limits: {memory: 128Mi, cpu: '1'}, requests: {cpu: 250m}}";
    dev.apply(&template(&dev, "bounded", limits));
    ready(&dev, "bounded");
    dev.actor("a", "bounded");
    assert_eq!(dev.visit("a"), (1, 1));
    dev.plugin(&["suspend", "a"]);
    assert_eq!(dev.visit("a"), (2, 2));

    let asked = dev.try_get("a", "/mem?mb=512");
    assert!(!matches!(asked, Ok((200, _))), "{asked:?}");
    let message = rolled_back(&dev, "a", "OOMKilled");
    assert!(
        message.contains("more memory than the 128Mi of its limits"),
        "{message}"
    );
    assert_eq!(dev.served("a"), (2, 2));

    let _ = dev.try_get("a", "/exit?code=3");
    let said = "container \"app\" exited with code 3";
    let message = rolled_back(&dev, "a", "SandboxExited");
    assert!(message.ends_with(said), "{message}");
    let described = dev.kubectl(&["describe", "actor", "a"]);
    assert!(described.contains(said), "{described}");
    assert_eq!(dev.served("a"), (2, 2));

    let uids = dev.kubectl(&["get", "workers", "-o", "jsonpath={.items[*].metadata.uid}"]);
    let groups = |uid: &str| {
        let named = format!("ate-{uid}");
        let found = walkdir(std::path::Path::new("/sys/fs/cgroup"), &named);
        found.len()
    };
    let each: Vec<_> = uids.split_whitespace().map(groups).collect();
    assert!(
        !each.is_empty() && each.iter().all(|n| *n > 0),
        "{uids}: {each:?}"
    );
    dev.stop();
    let each: Vec<_> = uids.split_whitespace().map(groups).collect();
    assert!(each.iter().all(|n| *n == 0), "{uids}: {each:?}");
}

/// The directories below `dir` that are called `name`.
fn walkdir(dir: &std::path::Path, name: &str) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let dirs = entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    dirs.flat_map(|e| match e.file_name() == *name {
        true => vec![e.path()],
        false => walkdir(&e.path(), name),
    })
    .collect()
}

#[test]
fn what_no_worker_is_large_enough_for_is_refused_with_both_sizes() {
    let dev = Dev::start(&[]);
    dev.apply(
        "apiVersion: ate.dev/v1alpha1\nkind: WorkerPool\nmetadata: {name: pool, namespace: default}\n\
         spec: {replicas: 1, template: {resources: {limits: {memory: 512Mi}}}}\n",
    );
    let limits = "resources: {limits: {memory: 1Gi}}\n  golden: {policy: Disabled}";
    dev.apply(&template(&dev, "large", limits));
    dev.actor("a", "large");
    let refused = dev.try_plugin(&["resume", "a"]).unwrap_err();
    for part in ["needs memory 1152Mi", "memory 512Mi", "of default/pool"] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    assert_eq!(condition(&dev, "a", "Ready").0, "WorkerTooSmall");
    let (status, body) = dev.try_get("a", "/").unwrap();
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("no worker is large enough"), "{body}");

    let more = r#"{"spec": {"template": {"resources": {"limits": {"memory": "2Gi"}}}}}"#;
    dev.kubectl(&["patch", "workerpool/pool", "--type=merge", "-p", more]);
    assert_eq!(dev.served("a"), (1, 1));

    let refused = template(&dev, "strange", "resources: {limits: {gpu: 1}}");
    std::fs::write(dev.path("strange.yaml"), refused).unwrap();
    let file = dev.path("strange.yaml");
    let refused = dev
        .try_kubectl(&["apply", "-f", file.to_str().unwrap()])
        .unwrap_err();
    assert!(
        refused.contains("spec.containers[0].resources"),
        "{refused}"
    );
}
