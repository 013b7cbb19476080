//! Registries and object stores that stall, break off and answer with errors: bounded, said, and fine afterwards.

use super::harness::{Dev, eventually, pack_with};
use super::objects::{BUCKET, apply, forget_copies, objects, ready};
use crate::parts::look;
use crate::parts::proxy::{Mode, Proxy};
use crate::parts::registry::{PASSWORD, Registry, USER};
use crate::parts::versitygw::{ACCESS_KEY, SECRET_KEY};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// A wake holds its worker for no longer.
const WAKE_BOUND: Duration = Duration::from_secs(60);
/// Whatever a registry does, a pull says so within this: it is asked again, from where it broke off, a few times.
const PULL_BOUND: Duration = Duration::from_secs(180);
/// After these the answer of a server has begun.
const BEGUN: u64 = 700;

/// What a person reads of a server that does this.
fn words(mode: Mode) -> &'static [&'static str] {
    match mode {
        Mode::Pass => &[],
        Mode::Answer(401) => &["does not allow"],
        Mode::Answer(429) => &["429"],
        Mode::Answer(_) => &["500"],
        Mode::Reset | Mode::Cut(_) | Mode::Stall(_) => &["s3://sleepers/"],
    }
}

#[test]
fn an_object_store_in_trouble_costs_no_snapshot_and_no_worker() {
    let objects = objects(false);
    let proxy = Proxy::start(objects.server.address(), Mode::Pass);
    let url = format!("http://{}", proxy.address());
    let dev = objects.dev_at(&url, ACCESS_KEY, SECRET_KEY);
    apply(&dev, &format!("s3://{BUCKET}"));
    ready(&dev);
    dev.actor("a", "counter");
    let (mut count, _) = dev.visit("a");
    dev.plugin(&["suspend", "a"]);
    for mode in [
        Mode::Answer(500),
        Mode::Answer(429),
        Mode::Answer(401),
        Mode::Reset,
        Mode::Cut(BEGUN),
        Mode::Stall(0),
        Mode::Stall(BEGUN),
    ] {
        forget_copies(&dev);
        proxy.set(mode);
        let begun = Instant::now();
        let said = dev.try_plugin(&["resume", "a"]).unwrap_err();
        let described = dev.kubectl(&["describe", "actor", "a"]);
        assert!(
            begun.elapsed() < WAKE_BOUND,
            "{mode:?}: {:?}",
            begun.elapsed()
        );
        assert!(proxy.set(Mode::Pass) > 0, "{mode:?} was met");
        for text in [said, described] {
            let told = words(mode).iter().all(|word| text.contains(word));
            assert!(told, "{mode:?}: {text}");
        }
        count += 1;
        assert_eq!(dev.served("a"), (count, count), "after {mode:?}");

        // Answers to what is written are short, and one that says nothing is given up later than a test should wait.
        if matches!(mode, Mode::Answer(_) | Mode::Reset) {
            proxy.set(mode);
            let said = dev.try_plugin(&["suspend", "a"]).unwrap_err();
            let described = dev.kubectl(&["describe", "actor", "a"]);
            assert_eq!(dev.field("a", ".status.phase"), "Paused", "{mode:?}");
            proxy.set(Mode::Pass);
            for text in [said, described] {
                let told = words(mode).iter().all(|word| text.contains(word));
                assert!(
                    told && text.contains("CheckpointFailed"),
                    "{mode:?}: {text}"
                );
            }
            count += 1;
            assert_eq!(dev.served("a"), (count, count), "after {mode:?}");
        }
        dev.plugin(&["suspend", "a"]);
    }

    // One that is silent while a snapshot is on its way does not keep the actor from waking.
    count += 1;
    assert_eq!(dev.visit("a"), (count, count));
    proxy.set(Mode::Stall(0));
    std::thread::scope(|threads| {
        threads.spawn(|| dev.try_plugin(&["suspend", "a"]));
        eventually("the snapshot is on its way", || {
            (dev.field("a", ".status.phase") == "Suspending").then_some(())
        });
        assert_eq!(dev.served("a"), (count + 1, count + 1));
        proxy.set(Mode::Pass);
    });
    eventually("it is published", || dev.try_plugin(&["suspend", "a"]).ok());
    forget_copies(&dev);
    assert_eq!(dev.served("a"), (count + 2, count + 2));
}

/// What registries do, and what is said of it.
const TROUBLES: [(&str, Mode, &str); 7] = [
    ("answer-500", Mode::Answer(500), "500"),
    ("answer-429", Mode::Answer(429), "429"),
    ("answer-401", Mode::Answer(401), "does not allow"),
    ("reset", Mode::Reset, "reset"),
    ("cut", Mode::Cut(BEGUN), "end of file"),
    ("stall", Mode::Stall(0), "timed out"),
    ("stall-begun", Mode::Stall(BEGUN), "timed out"),
];

#[test]
fn a_registry_in_trouble_is_said_and_its_image_is_pulled_when_it_is_well() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let proxies = TROUBLES.map(|(_, mode, _)| Proxy::start(registry.address(), mode));
    let account = serde_json::json!({"username": USER, "password": PASSWORD});
    let addresses = proxies
        .iter()
        .map(Proxy::address)
        .chain([registry.address()]);
    let hosts = addresses.map(|address| (address.to_string(), account.clone()));
    let config = serde_json::json!({"auths": hosts.collect::<serde_json::Map<_, _>>()});
    let file = dir.path().join("config.json");
    std::fs::write(&file, config.to_string()).unwrap();
    // Of one image there is one pull at a time.
    let digests = TROUBLES.map(|(name, _, _)| push(&registry, dir.path(), name));

    let dev = Dev::start(&["--docker-config", file.to_str().unwrap()]);
    dev.apply(&format!(
        "apiVersion: ate.dev/v1alpha1\nkind: WorkerPool\nmetadata: {{name: pool, namespace: default}}\nspec: {{replicas: {}}}\n",
        TROUBLES.len()
    ));
    let begun = Instant::now();
    for (((name, _, _), proxy), digest) in TROUBLES.iter().zip(&proxies).zip(digests) {
        let image = format!("{}/{name}@{digest}", proxy.address());
        dev.apply(&dev.template(name, &image));
    }
    for ((name, mode, word), proxy) in TROUBLES.iter().zip(&proxies) {
        look::until(PULL_BOUND.saturating_sub(begun.elapsed()), name, || {
            let said = dev.template_says(name)?;
            let described = dev.kubectl(&["describe", "actortemplate", name]);
            let told = said.starts_with("ImageUnavailable") && said.contains(word);
            (told && described.contains(word)).then_some(())
        });
        assert!(proxy.set(Mode::Pass) > 0, "{mode:?} was met");
    }
    for (name, _, _) in TROUBLES {
        let template = format!("actortemplate/{name}");
        dev.kubectl(&["wait", "--for=condition=Ready", &template, "--timeout=120s"]);
    }
}

/// Pushes an image of its own; returns its digest.
fn push(registry: &Registry, dir: &Path, name: &str) -> String {
    let (layout, digest) = split(&pack_with(&dir.join(name), name));
    let to = format!("{}/{name}:latest", registry.host());
    let pushed = Command::new("crane")
        .args(["push", "--insecure", &layout, &to])
        .env("DOCKER_CONFIG", dir)
        .output()
        .unwrap();
    look::outcome("crane push", &pushed).unwrap();
    digest
}

/// Path and digest of an image in a layout.
fn split(image: &str) -> (String, String) {
    let image = image.strip_prefix("oci-layout:").unwrap();
    let (path, digest) = image.split_once('@').unwrap();
    (path.to_owned(), digest.to_owned())
}
