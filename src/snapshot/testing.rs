//! What the tests of this room share: stores in directories and on two real S3 servers, images.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::versitygw::Versitygw;
use super::*;

/// How long a server may take to answer.
const START: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(100);

/// A store and what keeps it alive.
pub struct UnderTest {
    pub store: Arc<dyn ObjectStore>,
    /// Opens the store by its name.
    pub stores: Stores,
    _dir: Option<TempDir>,
    _server: Option<Versitygw>,
}

impl UnderTest {
    pub fn at(&self, prefix: &str) -> Location {
        at(self.store.clone(), prefix)
    }
}

/// A place in a store.
pub fn at(store: Arc<dyn ObjectStore>, prefix: &str) -> Location {
    Location {
        store,
        prefix: prefix.to_owned(),
    }
}

/// The directory that the store of `at` keeps its objects in, as another store.
pub fn living(at: &Location) -> UnderTest {
    let name = at.store.name();
    let root = name.strip_prefix("file://").unwrap();
    UnderTest {
        store: Arc::new(FileStore::new(root)),
        stores: Stores::default(),
        _dir: None,
        _server: None,
    }
}

/// Every implementation, empty.
pub async fn stores() -> Vec<UnderTest> {
    vec![file_store(), s3_store().await, weed_store().await]
}

pub fn file_store() -> UnderTest {
    let dir = tempfile::tempdir().unwrap();
    UnderTest {
        store: Arc::new(FileStore::new(dir.path().join("store"))),
        stores: Stores::default(),
        _dir: Some(dir),
        _server: None,
    }
}

pub async fn s3_store() -> UnderTest {
    let dir = tempfile::tempdir().unwrap();
    let server = Versitygw::start(dir.path(), None);
    let store = S3Store::new("snapshots", &config(&server)).await.unwrap();
    let bucket = store.client().create_bucket().bucket("snapshots");
    bucket.send().await.unwrap();
    UnderTest {
        store: Arc::new(store),
        stores: Stores::new(config(&server)),
        _dir: Some(dir),
        _server: Some(server),
    }
}

/// A bucket of its own on another S3 server.
async fn weed_store() -> UnderTest {
    let config = S3Config {
        endpoint: Some(format!("http://{}", weed::address())),
        credentials: Some(S3Credentials {
            access_key_id: weed::ACCESS_KEY.into(),
            secret_access_key: weed::SECRET_KEY.into(),
            session_token: None,
        }),
        ..S3Config::default()
    };
    let bucket = format!("snapshots-{}", uuid::Uuid::new_v4());
    let store = S3Store::new(&bucket, &config).await.unwrap();
    let made = async || {
        let created = store.client().create_bucket().bucket(&bucket).send().await;
        created.is_ok() && store.put_if_absent("probe", vec![1]).await.is_ok()
    };
    let until = Instant::now() + START;
    while !made().await {
        assert!(Instant::now() < until, "weed does not answer");
        tokio::time::sleep(LOOK).await;
    }
    store.delete("probe").await.unwrap();
    UnderTest {
        store: Arc::new(store),
        stores: Stores::new(config),
        _dir: None,
        _server: None,
    }
}

/// How a client reaches it.
pub fn config(server: &Versitygw) -> S3Config {
    S3Config {
        endpoint: Some(server.url()),
        ca: None,
        ca_file: None,
        region: Some("us-east-1".into()),
        path_style: true,
        credentials: Some(S3Credentials {
            access_key_id: versitygw::ACCESS_KEY.into(),
            secret_access_key: versitygw::SECRET_KEY.into(),
            session_token: None,
        }),
    }
}

pub fn meta(actor: &str) -> Meta {
    Meta {
        created: "2026-03-01T10:00:00.5Z".parse().unwrap(),
        actor: ActorIdentity {
            namespace: "ns".into(),
            name: actor.into(),
            uid: "u-1".into(),
        },
        template: "ns/counter".into(),
        runtime: RuntimeIdentity {
            class: "gvisor".into(),
            build: "release-1".into(),
        },
        cpu: Cpu {
            arch: "amd64".into(),
            baseline: "avx2 sse4_2".into(),
        },
    }
}

/// An image directory as a checkpoint leaves it; `seed` tells it from others.
pub fn image(parent: &Path, name: &str, seed: u8) -> std::path::PathBuf {
    let dir = parent.join(name);
    std::fs::create_dir_all(&dir).unwrap();
    let noise = |n: usize| -> Vec<u8> {
        let mut state = u32::from(seed) + 1;
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..n).map(next).collect()
    };
    std::fs::write(dir.join("checkpoint.img"), noise(3_000)).unwrap();
    std::fs::write(dir.join("pages.img"), noise(300_000)).unwrap();
    std::fs::write(dir.join("pages_meta.img"), vec![seed; 500]).unwrap();
    dir
}

/// A page of memory that no other seed makes; zeros for 0.
pub fn page(seed: u64) -> Vec<u8> {
    let mut page = vec![0; pages::PAGE];
    if seed > 0 {
        let mut hasher = blake3::Hasher::new();
        let mut noise = hasher.update(&seed.to_le_bytes()).finalize_xof();
        noise.fill(&mut page);
    }
    page
}

/// An image directory with these pages of memory.
pub fn heap(parent: &Path, name: &str, pages: &[u64]) -> std::path::PathBuf {
    let dir = image(parent, name, 1);
    let file = std::fs::File::create(dir.join("pages.img")).unwrap();
    let mut file = std::io::BufWriter::new(file);
    for seed in pages {
        std::io::Write::write_all(&mut file, &page(*seed)).unwrap();
    }
    dir
}

/// Names and contents of a directory's files.
pub fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| {
            let e = e.unwrap();
            let name = e.file_name().into_string().unwrap();
            (name, std::fs::read(e.path()).unwrap_or_default())
        })
        .collect();
    all.sort();
    all
}

/// Everything below a directory, as paths.
pub fn tree(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                todo.push(path.clone());
            }
            found.push(path);
        }
    }
    found.sort();
    found
}
