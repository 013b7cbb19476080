//! Bad input and missing parts: one clear line each, and no leftovers.

use super::harness::{Dev, eventually, image};
use std::net::TcpListener;
use std::process::Command;

fn ate(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ate"));
    command.args(args);
    command
}

/// The one line that a failing `ate dev` ends with.
fn failure(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<_> = said.lines().filter(|l| l.starts_with("ate: ")).collect();
    assert_eq!(lines.len(), 1, "{said}");
    lines[0].to_owned()
}

#[test]
fn what_is_missing_or_taken_is_said_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let (lib, run) = (dir.path().join("lib"), dir.path().join("run"));
    let args = [
        "dev",
        "--dir",
        lib.to_str().unwrap(),
        "--run-dir",
        run.to_str().unwrap(),
    ];

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let router = taken.local_addr().unwrap().to_string();
    let mut command = ate(&args);
    command.args(["--router", &router]);
    let said = failure(command);
    assert!(
        said.contains(&router) && said.contains("--router"),
        "{said}"
    );

    let mut command = ate(&args);
    command.args(["--subnet", "127.0.0.0/16"]);
    let said = failure(command);
    assert!(
        said.contains("--subnet") && said.contains("127.0.0.0/16 is in use by link lo"),
        "{said}"
    );

    let mut command = ate(&args);
    command.args(["--dir", "/proc/nowhere"]);
    let output = command.output().unwrap();
    assert!(!output.status.success());

    let mut command = ate(&args);
    command.args(["--s3-endpoint", "http://s3.example:9000"]);
    let said = failure(command);
    assert!(
        said.contains("http://s3.example:9000") && said.contains("use https"),
        "{said}"
    );
    let mut command = ate(&args);
    command.args(["--s3-ca", "/nowhere/ca.pem"]);
    let said = failure(command);
    assert!(said.contains("--s3-ca /nowhere/ca.pem"), "{said}");

    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--clear-groups"])
        .arg(copy_of_ate(dir.path()))
        .args(args);
    let said = failure(command);
    assert_eq!(
        said,
        "ate: ate dev must run as root: sandboxes and network namespaces need it"
    );
}

/// Somebody who is not root may not look into the build's directory.
fn copy_of_ate(dir: &std::path::Path) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    let copy = dir.join("ate");
    std::fs::copy(env!("CARGO_BIN_EXE_ate"), &copy).unwrap();
    copy
}

#[test]
fn bad_templates_and_actors_say_what_to_change() {
    let allowed = "1".repeat(64);
    let dev = Dev::start(&["--allow-runtime", &allowed]);
    dev.apply("apiVersion: ate.dev/v1alpha1\nkind: WorkerPool\nmetadata: {name: pool, namespace: default}\nspec: {replicas: 1}\n");

    let refused = |yaml: &str| {
        let file = dev.path("bad.yaml");
        std::fs::write(&file, yaml).unwrap();
        dev.try_kubectl(&["apply", "-f", file.to_str().unwrap()])
            .unwrap_err()
    };
    let said = refused(&dev.template("tagged", "python:3"));
    assert!(
        said.contains("spec.containers[0].image") && said.contains("@sha256:"),
        "{said}"
    );
    let said = refused(
        "apiVersion: runtime.ate.dev/v1alpha1\nkind: Actor\nmetadata: {name: Bad_, namespace: default}\nspec: {templateRef: {name: x}}\n",
    );
    assert!(said.contains("metadata.name"), "{said}");

    dev.actor("lost", "nowhere");
    let why = dev.field("lost", ".status.conditions[?(@.type==\"Ready\")].reason");
    assert_eq!(why, "TemplateNotFound", "before anybody tried to wake it");
    let (status, body) = dev.try_get("lost", "/").unwrap();
    assert_eq!(
        (status, body.trim()),
        (503, "ActorTemplate default/nowhere not found")
    );

    let digest = "0".repeat(64);
    let runsc = |name: &str, url: &str, sum: &str| {
        let runsc = format!("  runsc:\n    amd64: {{url: \"{url}\", sha256Hash: \"{sum}\"}}\n");
        dev.apply(&format!("{}{runsc}", dev.template(name, &image())));
    };
    let here = format!("file://{}", env!("CARGO_BIN_EXE_ate"));
    runsc("strange-runsc", &here, &digest);
    runsc("wrong-runsc", &here, &allowed);
    runsc("missing-runsc", "file:///nowhere/runsc", &allowed);
    let missing = format!("oci-layout:/nowhere@sha256:{digest}");
    dev.apply(&dev.template("no-image", &missing));
    let env = "    env: [{name: KEY, valueFrom: {secretKeyRef: {name: s, key: k}}}]\n";
    dev.apply(&format!("{}{env}", dev.template("secretive", &image())));
    for (template, reason, words) in [
        (
            "strange-runsc",
            "RuntimeUnavailable",
            ["spec.runsc", "--allow-runtime"],
        ),
        (
            "wrong-runsc",
            "RuntimeUnavailable",
            ["spec.runsc", "sha256Hash"],
        ),
        (
            "missing-runsc",
            "RuntimeUnavailable",
            ["spec.runsc: file:///nowhere/runsc", "No such file"],
        ),
        ("no-image", "ImageUnavailable", ["/nowhere", "not found"]),
        (
            "secretive",
            "SecretUnavailable",
            ["env KEY", "a Secret needs a cluster"],
        ),
    ] {
        eventually("the template says why", || {
            let said = dev.template_says(template)?;
            let described = dev.kubectl(&["describe", "actortemplate", template]);
            let told = |text: &str| words.iter().all(|word| text.contains(word));
            (said.starts_with(reason) && told(&said) && told(&described)).then_some(())
        });
    }
    let said = refused(
        "apiVersion: runtime.ate.dev/v1alpha1\nkind: Actor\nmetadata: {name: foreign, namespace: team}\nspec: {templateRef: {name: no-image, namespace: default}}\n",
    );
    assert!(
        said.contains("Forbidden") && said.contains("spec.allowedNamespaces"),
        "{said}"
    );
    assert_eq!(dev.try_get("nobody", "/").unwrap().0, 404);
}
