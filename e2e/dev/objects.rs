//! Snapshots in a real S3 server, through the whole agent.

use super::harness::{Dev, PATIENCE, eventually, image};
use crate::parts::versitygw::{ACCESS_KEY, SECRET_KEY, Versitygw};
use std::path::{Path, PathBuf};
use substrate::identity::{Authority, LeafRequest, Usage};
use substrate::snapshot::{ObjectStore, S3Config, S3Credentials, S3Store};

pub const BUCKET: &str = "sleepers";

/// A server with a bucket, and what a client needs to know of it.
pub struct Objects {
    pub server: Versitygw,
    ca: Option<PathBuf>,
    dir: tempfile::TempDir,
}

pub fn objects(tls: bool) -> Objects {
    let dir = tempfile::tempdir().unwrap();
    let buckets = dir.path().join("buckets");
    std::fs::create_dir_all(buckets.join(BUCKET)).unwrap();
    let pki = tls.then(|| certificate(&dir.path().join("pki")));
    let ca = tls.then(|| dir.path().join("pki/ca.crt"));
    Objects {
        server: Versitygw::start(&buckets, pki),
        ca,
        dir,
    }
}

/// Certificate and key for `localhost`, beside the CA's `ca.crt`.
fn certificate(dir: &Path) -> (PathBuf, PathBuf) {
    let ca = Authority::load_or_create(dir).unwrap();
    let request = LeafRequest::new("s3", Usage::Server).sans(["localhost"]);
    let leaf = ca.leaf(&request).unwrap();
    let (chain, key) = (dir.join("s3.crt"), dir.join("s3.key"));
    std::fs::write(dir.join("ca.crt"), ca.certificate()).unwrap();
    std::fs::write(&chain, leaf.chain).unwrap();
    std::fs::write(&key, leaf.key).unwrap();
    (chain, key)
}

impl Objects {
    /// An `ate dev` that knows the server, with these keys.
    fn dev(&self, access: &str, secret: &str) -> Dev {
        self.dev_at(&self.server.url(), access, secret)
    }

    /// The same, that finds the server at `url`.
    pub fn dev_at(&self, url: &str, access: &str, secret: &str) -> Dev {
        let environment = [
            ("AWS_ACCESS_KEY_ID", access),
            ("AWS_SECRET_ACCESS_KEY", secret),
            ("AWS_REGION", "us-east-1"),
        ];
        self.dev_with(url, &environment)
    }

    /// One whose keys and region are a profile's.
    fn dev_of_profile(&self) -> Dev {
        let (keys, settings) = (
            self.dir.path().join("keys"),
            self.dir.path().join("settings"),
        );
        let text = format!(
            "[default]\naws_access_key_id = no\naws_secret_access_key = no\n\
             [team]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
        );
        std::fs::write(&keys, text).unwrap();
        std::fs::write(&settings, "[profile team]\nregion = us-east-1\n").unwrap();
        let environment = [
            ("AWS_PROFILE", "team"),
            ("AWS_SHARED_CREDENTIALS_FILE", keys.to_str().unwrap()),
            ("AWS_CONFIG_FILE", settings.to_str().unwrap()),
        ];
        self.dev_with(&self.server.url(), &environment)
    }

    fn dev_with(&self, url: &str, environment: &[(&str, &str)]) -> Dev {
        let mut environment = environment.to_vec();
        if let Some(ca) = &self.ca {
            environment.push(("AWS_CA_BUNDLE", ca.to_str().unwrap()));
        }
        Dev::start_with(
            &["--operation-lease", "2", "--s3-endpoint", url],
            &environment,
        )
    }

    /// Where the server keeps the bucket.
    pub fn bucket(&self) -> PathBuf {
        self.dir.path().join("buckets").join(BUCKET)
    }

    /// The keys in the bucket.
    pub fn keys(&self) -> Vec<String> {
        let config = S3Config {
            endpoint: Some(self.server.url()),
            ca: self.ca.as_ref().map(|ca| std::fs::read(ca).unwrap()),
            region: Some("us-east-1".into()),
            credentials: Some(S3Credentials {
                access_key_id: ACCESS_KEY.into(),
                secret_access_key: SECRET_KEY.into(),
                session_token: None,
            }),
            ..S3Config::default()
        };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let store = S3Store::new(BUCKET, &config).await.unwrap();
            store.list("", None).await.unwrap().keys
        })
    }
}

/// A pool, and the template `counter` with its snapshots at `location`.
pub fn apply(dev: &Dev, location: &str) {
    dev.apply(&format!(
        "apiVersion: ate.dev/v1alpha1\nkind: WorkerPool\nmetadata: {{name: pool, namespace: default}}\nspec: {{replicas: 1}}\n---\n{}  snapshotsConfig: {{location: \"{location}\"}}\n",
        dev.template("counter", &image())
    ));
}

pub fn ready(dev: &Dev) {
    let limit = format!("--timeout={}s", PATIENCE.as_secs());
    let counter = "actortemplate/counter";
    dev.kubectl(&["wait", "--for=condition=Ready", counter, &limit]);
}

/// Takes the node's copies of snapshots away.
pub fn forget_copies(dev: &Dev) {
    for copy in std::fs::read_dir(dev.path("lib/node/snapshots")).unwrap() {
        let copy = copy.unwrap().path();
        if copy.is_dir() {
            std::fs::remove_dir_all(copy).unwrap();
        }
    }
}

/// Everything that `ate dev` and its components wrote down.
fn logs(dev: &Dev) -> String {
    let files = std::fs::read_dir(dev.path("lib/logs")).unwrap();
    let read = |file: PathBuf| std::fs::read_to_string(file).unwrap();
    files
        .map(|file| read(file.unwrap().path()))
        .chain([dev.output()])
        .collect()
}

/// Nobody learns the secret: not from a command line, not from a log, and of the components only the node agent.
fn secret_is_kept(dev: &Dev, secret: &str) {
    let holds = |pid: &i32, file: &str| {
        let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).contains(secret)
    };
    for pid in dev.processes("") {
        assert!(!holds(&pid, "cmdline"), "on the command line of {pid}");
    }
    for component in [
        "ate apiserver",
        "ate controller",
        "ate router",
        "ate ateom",
        "valkey",
    ] {
        for pid in dev.processes(component) {
            assert!(!holds(&pid, "environ"), "given to {component}");
        }
    }
    let agents = dev.processes("/ate atelet");
    assert!(agents.iter().any(|pid| holds(pid, "environ")), "{agents:?}");
    assert!(!logs(dev).contains(secret), "in a log");
}

/// Bytes that the latest snapshot of actor `a` has cost.
fn stored(dev: &Dev) -> u64 {
    dev.field("a", ".status.snapshot.bytes").parse().unwrap()
}

#[test]
fn an_actor_sleeps_in_s3_and_wakes_from_there_alone() {
    let objects = objects(true);
    let mut dev = objects.dev(ACCESS_KEY, SECRET_KEY);
    apply(&dev, &format!("s3://{BUCKET}/team/x"));
    ready(&dev);
    dev.actor("a", "counter");
    assert_eq!(dev.visit("a"), (1, 1));
    let memory = dev.get("a", "/mem?mb=16");
    dev.plugin(&["suspend", "a"]);
    assert!(stored(&dev) > 16 << 20);
    let id = dev.field("a", ".status.snapshot.id");
    let (keys, manifest) = (objects.keys(), format!("{id}/manifest.json"));
    assert!(
        keys.iter()
            .any(|k| k.starts_with("team/x/") && k.ends_with(&manifest)),
        "{id} {keys:?}"
    );
    assert!(
        keys.iter()
            .any(|k| k.contains(&id) && k.ends_with("pages.img.zst")),
        "{keys:?}"
    );
    assert_eq!(dev.visit("a"), (2, 2), "memory and files went on");
    dev.plugin(&["suspend", "a"]);
    assert!(stored(&dev) < 2 << 20, "what was new: {}", stored(&dev));
    secret_is_kept(&dev, SECRET_KEY);

    dev.stop();
    for copies in ["snapshots", "held", "spool"] {
        std::fs::remove_dir_all(dev.path("lib/node").join(copies)).unwrap();
    }
    dev.restart();
    assert_eq!(dev.served("a"), (3, 3), "from S3 alone");
    assert_eq!(dev.get("a", "/mem"), memory);
    dev.actor("new", "counter");
    dev.plugin(&["suspend", "a"]);
    assert_eq!(dev.served("new"), (1, 1), "the golden snapshot too");

    // Under the running agent, too.
    dev.plugin(&["suspend", "new"]);
    forget_copies(&dev);
    assert_eq!(dev.served("a"), (4, 4));
}

#[test]
fn a_server_that_dies_during_a_suspend_costs_nothing() {
    let mut objects = objects(false);
    let dev = objects.dev_of_profile();
    apply(&dev, &format!("s3://{BUCKET}"));
    ready(&dev);
    dev.actor("a", "counter");
    assert_eq!(dev.visit("a"), (1, 1));

    objects.server.freeze();
    let said = std::thread::scope(|scope| {
        let suspend = scope.spawn(|| dev.try_plugin(&["suspend", "a"]));
        eventually("the snapshot is on its way", || {
            (dev.field("a", ".status.phase") == "Suspending").then_some(())
        });
        objects.server.kill();
        suspend.join().unwrap()
    });
    let said = said.unwrap_err();
    assert!(said.contains("s3://sleepers/ is not available"), "{said}");
    assert!(
        said.contains("refused") && !said.contains("Failure {"),
        "{said}"
    );
    assert_eq!(
        dev.field("a", ".status.phase"),
        "Paused",
        "kept on its node"
    );
    let described = dev.kubectl(&["describe", "actor", "a"]);
    assert!(
        described.contains("CheckpointFailed") && described.contains("not available"),
        "{described}"
    );
    assert_eq!(dev.served("a"), (2, 2), "wakes without the server");

    objects.server.restart();
    let slept = eventually("suspend", || dev.try_plugin(&["suspend", "a"]).ok());
    assert!(slept.contains("suspended"), "{slept}");
    assert_eq!(dev.field("a", ".status.phase"), "Suspended");
    let id = dev.field("a", ".status.snapshot.id");
    let (keys, manifest) = (objects.keys(), format!("{id}/manifest.json"));
    assert!(keys.iter().any(|k| k.ends_with(&manifest)), "{id} {keys:?}");
    assert_eq!(dev.served("a"), (3, 3));
}

/// What a template's description says once its golden snapshot failed.
fn why(dev: &Dev) -> String {
    eventually("the template says why", || {
        let said = dev.template_says("counter")?;
        said.starts_with("CheckpointFailed").then_some(said)
    })
}

#[test]
fn a_wrong_key_and_a_missing_bucket_are_said_without_the_secret() {
    let objects = objects(false);
    let wrong = "wrong-secret-9d1e";
    let dev = objects.dev(ACCESS_KEY, wrong);
    apply(&dev, &format!("s3://{BUCKET}"));
    let said = why(&dev);
    assert!(
        said.contains("s3://sleepers/ does not allow") && said.contains("check the credentials"),
        "{said}"
    );
    assert!(!said.contains(wrong), "{said}");
    assert!(logs(&dev).contains("check the credentials"));
    secret_is_kept(&dev, wrong);
    drop(dev);

    let dev = objects.dev(ACCESS_KEY, SECRET_KEY);
    apply(&dev, "s3://nowhere/x");
    let said = why(&dev);
    assert!(
        said.contains("s3://nowhere/") && said.contains("spec.snapshotsConfig.location"),
        "{said}"
    );
    secret_is_kept(&dev, SECRET_KEY);
}
