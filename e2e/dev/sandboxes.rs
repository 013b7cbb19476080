//! What a template says of its sandboxes: what they may take, and what is said when they end.

use super::harness::{Dev, eventually, image, kill};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

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
        let found = walkdir(Path::new("/sys/fs/cgroup"), &named);
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
fn walkdir(dir: &Path, name: &str) -> Vec<PathBuf> {
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

#[test]
fn a_container_is_who_its_template_says_and_has_nothing_of_its_host() {
    let dev = Dev::start(&[]);
    dev.with_counter(1);
    let who = "securityContext: {runAsUser: 1000, runAsGroup: 1001, supplementalGroups: [7], readOnlyRootFilesystem: true, \
               capabilities: {drop: [ALL]}}\n  dnsPolicy: None\n  dnsConfig: {nameservers: [10.0.0.10], searches: [example.org]}";
    dev.apply(&template(&dev, "other", who));
    ready(&dev, "other");
    dev.actor("a", "other");
    let file = |path: &str| dev.get("a", &format!("/files?path={path}"));
    let status: String = file("/proc/self/status")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    for part in [
        "Uid: 1000 1000",
        "Gid: 1001 1001",
        "Groups: 7 ",
        "CapBnd: 0000000000000000",
        "NoNewPrivs: 1",
    ] {
        assert!(status.contains(part), "{part}: {status}");
    }
    assert_eq!(file("/etc/hostname"), "a.default\n");
    assert_eq!(
        file("/etc/resolv.conf"),
        "nameserver 10.0.0.10\nsearch example.org\n"
    );

    for (more, field) in [
        (
            "securityContext: {privileged: true}",
            "securityContext.privileged",
        ),
        (
            "securityContext: {allowPrivilegeEscalation: true}",
            "securityContext.allowPrivilegeEscalation",
        ),
        (
            "securityContext: {capabilities: {add: [SYS_ADMIN]}}",
            "securityContext.capabilities.add[0]",
        ),
        (
            "securityContext: {procMount: Unmasked}",
            "securityContext.procMount",
        ),
        (
            "volumeDevices: [{name: disk, devicePath: /dev/vda}]",
            "volumeDevices",
        ),
        (
            "volumeMounts: [{name: host, mountPath: /host}]",
            "volumeMounts",
        ),
        (
            "env: []\n  volumes: [{name: host, hostPath: {path: /}}]",
            "hostPath",
        ),
        ("env: []\n  hostNetwork: true", "spec.hostNetwork"),
        ("env: []\n  hostPID: true", "spec.hostPID"),
        ("env: []\n  hostIPC: true", "spec.hostIPC"),
    ] {
        std::fs::write(dev.path("refused.yaml"), template(&dev, "refused", more)).unwrap();
        let file = dev.path("refused.yaml");
        let refused = dev.try_kubectl(&["apply", "-f", file.to_str().unwrap()]);
        let refused = refused.expect_err(more);
        assert!(refused.contains(field), "{field}: {refused}");
    }
}

/// A client that follows a log, and the file with what came.
struct Follower(Child, PathBuf);

impl Follower {
    fn start(dev: &Dev, actor: &str) -> Follower {
        let file = dev.path("followed.log");
        let child = dev
            .client(env!("CARGO_BIN_EXE_kubectl-ate"))
            .args(["logs", "-f", actor])
            .stdin(Stdio::null())
            .stdout(File::create(&file).unwrap())
            .spawn();
        Follower(child.unwrap(), file)
    }

    /// Lines that are not all x.
    fn lines(&self) -> Vec<String> {
        let text = std::fs::read(&self.1).unwrap();
        let text = String::from_utf8_lossy(&text);
        let told = text.lines().filter(|line| line.starts_with("line-"));
        told.map(str::to_owned).collect()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The files of an actor's logs, and the bytes in them.
fn logs(dev: &Dev, actor: &str) -> (Vec<PathBuf>, u64) {
    let dirs = walkdir(&dev.path("lib"), "logs").into_iter();
    let own = dirs.filter(|dir| dir.to_string_lossy().contains(&format!(":{actor}/")));
    let files = own.flat_map(|dir| std::fs::read_dir(dir).into_iter().flatten().flatten());
    let files: Vec<_> = files.map(|file| file.path()).collect();
    let sizes = files.iter().filter_map(|file| file.metadata().ok());
    let bytes = sizes.map(|meta| meta.len()).sum();
    (files, bytes)
}

#[test]
fn a_log_is_followed_through_rotation_and_sleep_and_fills_no_disk() {
    let dev = Dev::start(&[]);
    dev.with_counter(1);
    dev.actor("a", "counter");
    dev.visit("a");
    let follower = Follower::start(&dev, "a");
    let mut wanted = vec![];
    let mut tell = |what: &str, more: &str| {
        let line = format!("line-{what}");
        let told = || dev.try_get("a", &format!("/log?line={line}{more}")).ok();
        eventually(what, || told().filter(|(status, _)| *status == 200));
        wanted.push(line);
        eventually(what, || (follower.lines() == wanted).then_some(()));
    };
    tell("first", "");
    tell("before-a-rotation", "&bytes=5000000");
    eventually("it is rotated", || {
        let (files, _) = logs(&dev, "a");
        files.iter().any(|f| f.ends_with("app.log.1")).then_some(())
    });
    tell("after-it", "");
    dev.plugin(&["suspend", "a"]);
    tell("awake-again", "");
    dev.processes(" atelet ").into_iter().for_each(kill);
    tell("with-another-node-agent", "");
    let shown = dev.plugin(&["logs", "a", "--tail=1", "-c", "app"]);
    assert_eq!(shown, "line-with-another-node-agent\n");
    drop(follower);

    // More than may be kept by far, and all that time no more than that on the disk.
    let endless = std::thread::scope(|scope| {
        scope.spawn(|| dev.try_get("a", "/log?bytes=200000000"));
        let mut most = 0;
        eventually("much is written", || {
            let (files, bytes) = logs(&dev, "a");
            most = most.max(bytes);
            let cut = files.iter().find(|f| f.ends_with("app.log.at"))?;
            let cut: u64 = std::fs::read_to_string(cut).ok()?.parse().ok()?;
            (cut > 100_000_000).then_some(())
        });
        most
    });
    assert!(endless < 50_000_000, "{endless}");
}
