//! A template that names its runtime by `https://`, as its user has it.

use super::harness::{Dev, PATIENCE, image};
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
