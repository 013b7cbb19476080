//! Which runtime actors run in: a template that names it by `https://`, as its user has it; and nodes that get another one.

use super::harness::{Dev, PATIENCE, eventually, image};
use crate::parts::https::{Https, respond};
use sha2::{Digest, Sha256};
use substrate::identity::{Authority, LeafRequest, Usage};

/// The runsc that the other tests use, changed in a way that does not matter to it.
fn another_runsc() -> Vec<u8> {
    let path = std::env::var_os("PATH").unwrap();
    let found = std::env::split_paths(&path).map(|dir| dir.join("runsc"));
    let found = found.into_iter().find(|file| file.is_file());
    let mut bytes = std::fs::read(found.expect("runsc is on PATH")).unwrap();
    bytes.push(0);
    bytes
}

#[test]
fn actors_run_in_a_runtime_that_is_fetched_once() {
    let pki = tempfile::tempdir().unwrap();
    let ca = Authority::load_or_create(pki.path()).unwrap();
    let request = LeafRequest::new("server", Usage::Server).sans(["localhost"]);
    let leaf = ca.leaf(&request).unwrap();
    let trusted = pki.path().join("trusted.pem");
    std::fs::write(&trusted, ca.certificate()).unwrap();
    let runsc = another_runsc();
    let sum = hex::encode(Sha256::digest(&runsc));
    let server = Https::start(&leaf.chain, &leaf.key, move |_, to| {
        respond(to, "200 OK", &runsc, runsc.len());
    });

    let mut dev = Dev::start_with(
        &["--allow-runtime", &sum],
        &[("SSL_CERT_FILE", trusted.to_str().unwrap())],
    );
    dev.apply(&format!(
        "apiVersion: ate.dev/v1alpha1\nkind: WorkerPool\nmetadata: {{name: pool, namespace: default}}\nspec: {{replicas: 1}}\n---\n{}  runsc:\n    amd64: {{url: \"{}\", sha256Hash: \"{sum}\"}}\n",
        dev.template("counter", &image()),
        server.url("/runsc")
    ));
    let limit = format!("--timeout={}s", PATIENCE.as_secs());
    dev.kubectl(&[
        "wait",
        "--for=condition=Ready",
        "actortemplate/counter",
        &limit,
    ]);
    dev.actor("a", "counter");
    assert_eq!(dev.visit("a"), (1, 1));
    dev.stop();
    dev.restart();
    assert_eq!(dev.served("a"), (2, 2));
    assert_eq!(server.requests(), 1);
    let kept = dev.path("lib/node/runtimes").join(&sum);
    assert!(kept.is_file(), "{}", kept.display());
}

/// The node's runsc is replaced, as an operator does it, while everything runs.
#[test]
fn another_runsc_on_the_node_means_another_golden_snapshot_and_says_so_to_those_of_the_one_before()
{
    let path = std::env::var("PATH").unwrap();
    let bin = tempfile::tempdir().unwrap();
    let found = std::env::split_paths(&path).map(|dir| dir.join("runsc"));
    let usual = std::fs::read(found.into_iter().find(|file| file.is_file()).unwrap()).unwrap();
    let put = |bytes: &[u8]| {
        let draft = bin.path().join("draft");
        std::fs::write(&draft, bytes).unwrap();
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&draft, executable).unwrap();
        std::fs::rename(&draft, bin.path().join("runsc")).unwrap();
        hex::encode(Sha256::digest(bytes))[..12].to_owned()
    };
    let before = put(&usual);
    let path = format!("{}:{path}", bin.path().display());
    let dev = Dev::start_with(&[], &[("PATH", &path)]);
    dev.with_counter(2);
    let goldens = || {
        let of = "jsonpath={.status.goldenSnapshots[*].runtime}";
        dev.kubectl(&["get", "actortemplate", "counter", "-o", of])
    };
    assert_eq!(goldens(), before);
    for name in ["sleeper", "worker"] {
        dev.actor(name, "counter");
        assert_eq!(dev.visit(name), (1, 1));
    }
    dev.plugin(&["suspend", "sleeper"]);

    let after = put(&another_runsc());
    eventually("there is a golden snapshot of each", || {
        (goldens() == format!("{before} {after}")).then_some(())
    });
    assert_eq!(dev.visit("worker"), (2, 2), "what runs goes on");
    dev.actor("new", "counter");
    assert_eq!(dev.served("new"), (1, 1));
    dev.plugin(&["suspend", "new"]);
    let refused = dev.try_plugin(&["resume", "sleeper"]).unwrap_err();
    for part in [
        "RuntimeMismatch",
        &before,
        &after,
        "kubectl ate boot sleeper",
    ] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    let ready = ".status.conditions[?(@.type==\"Ready\")].reason";
    assert_eq!(dev.field("sleeper", ready), "RuntimeMismatch");
    assert_eq!(dev.visit("new"), (2, 2), "of the new one from the start");
    dev.plugin(&["suspend", "new"]);

    put(&usual);
    let awake = eventually("the one before is back", || {
        dev.try_plugin(&["resume", "sleeper"]).ok()
    });
    assert_eq!(dev.visit("sleeper"), (2, 2), "{awake}");
    // Who does not want to wait for it boots.
    put(&another_runsc());
    eventually("the sleeper cannot wake", || {
        dev.plugin(&["suspend", "sleeper"]);
        dev.try_plugin(&["resume", "sleeper"]).err()
    });
    dev.plugin(&["boot", "sleeper"]);
    assert_eq!(dev.visit("sleeper").0, 1);

    // The golden snapshot of the one before goes with the last that is of it.
    for name in ["sleeper", "worker", "new"] {
        dev.kubectl(&["delete", "actor", name]);
    }
    eventually("nobody needs it any more", || {
        (goldens() == after).then_some(())
    });
    let golden = dev.kubectl(&["get", "actors", "-l", "ate.dev/golden=true", "-o", "name"]);
    assert_eq!(golden.lines().count(), 1, "{golden}");
    dev.actor("last", "counter");
    assert_eq!(dev.served("last"), (1, 1));
    dev.kubectl(&["delete", "actor", "last"]);
    dev.kubectl(&["delete", "actortemplate", "counter"]);
    let left = dev.kubectl(&["get", "actors", "-o", "name"]);
    assert_eq!(left, "", "all golden actors go with their template");
}
