//! Where snapshots are kept: `s3://bucket/prefix/`, `file:///dir/`. `gs://bucket/prefix/`, which existing manifests write, is a bucket of the
//! S3 server that an installation has of its own.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tokio::sync::Mutex;

use super::file_store::FileStore;
use super::objects::{ObjectStore, check_key};
use super::s3_store::S3Store;
use super::{BUFFER, Result, SnapshotError, blocking, error};

/// Buckets whose connections are kept open at the same time.
const MAX_OPEN_STORES: usize = 64;

/// Keys to an S3 server. `Debug` leaves the secrets out.
#[derive(Clone)]
pub struct S3Credentials {
    /// Public half.
    pub access_key_id: String,
    /// Secret half.
    pub secret_access_key: String,
    /// Given with temporary keys.
    pub session_token: Option<String>,
}

impl fmt::Debug for S3Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Credentials")
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

/// How S3 is reached. What is left out comes from AWS's usual places: `AWS_ENDPOINT_URL`, `AWS_REGION`,
/// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and so on, the profile, the pod's or the machine's role.
#[derive(Clone, Debug, Default)]
pub struct S3Config {
    /// URL of a server other than AWS's own; `http://` only to this machine.
    pub endpoint: Option<String>,
    /// Certificates (PEM) that the server's must be signed by, in place of the system's.
    pub ca: Option<Vec<u8>>,
    /// The file that `ca` was read from: when there are others in it, they count.
    pub ca_file: Option<PathBuf>,
    /// Region to sign for.
    pub region: Option<String>,
    /// Bucket in the path rather than in the host name; always so with an endpoint of one's own.
    pub path_style: bool,
    /// Keys; otherwise AWS's chain of providers.
    pub credentials: Option<S3Credentials>,
}

impl S3Config {
    /// Whether S3 can be reached like this at all. Nothing is asked of the server.
    ///
    /// # Errors
    /// `BadEndpoint` or `BadCa`, which say what to change.
    pub fn check(&self) -> Result<()> {
        if let Some(endpoint) = &self.endpoint {
            super::endpoint::check(endpoint)?;
        }
        self.ca.as_deref().map_or(Ok(()), super::endpoint::check_ca)
    }

    /// Takes other certificates from the file, if there are any. What cannot be used changes nothing.
    async fn renewed(&mut self) -> bool {
        let Some(file) = &self.ca_file else {
            return false;
        };
        let Ok(pem) = tokio::fs::read(file).await else {
            return false;
        };
        let new = self.ca.as_ref() != Some(&pem) && super::endpoint::check_ca(&pem).is_ok();
        if new {
            self.ca = Some(pem);
        }
        new
    }
}

/// A place for snapshots: a store and the keys' prefix in it.
#[derive(Clone, Debug)]
pub struct Location {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// Empty, or ends with `/`.
    pub prefix: String,
}

impl Location {
    /// For people and logs, and for [`Stores::open`].
    pub(super) fn name(&self) -> String {
        format!("{}{}", self.store.name(), self.prefix)
    }

    /// The prefix of a snapshot's objects.
    pub(super) fn keys_of(&self, id: &str) -> String {
        format!("{}{id}/", self.prefix)
    }

    /// The key of a snapshot's manifest.
    pub(super) fn manifest_of(&self, id: &str) -> String {
        format!("{}{id}/{}", self.prefix, super::MANIFEST_NAME)
    }
}

/// By bucket.
type Opened = HashMap<String, Arc<dyn ObjectStore>>;

/// Opens locations, and keeps one client a bucket.
#[derive(Debug, Default)]
pub struct Stores {
    /// And what they were opened with.
    open: Mutex<(Opened, S3Config)>,
    /// Directories that were swept since this process started.
    swept: Mutex<HashSet<PathBuf>>,
}

impl Stores {
    /// Stores that reach S3 as `s3` says.
    pub fn new(s3: S3Config) -> Self {
        Self {
            open: Mutex::new((Opened::new(), s3)),
            swept: Mutex::default(),
        }
    }

    /// The location that `uri` names. Nothing is asked of it yet, but that the first to open a directory removes what killed
    /// processes left in it long ago.
    ///
    /// # Errors
    /// `BadLocation`, which says how it should look, also of `gs://` where no S3 server is configured.
    pub async fn open(&self, uri: &str) -> Result<Location> {
        match parse(uri)? {
            Parsed::File { dir } => {
                let store = FileStore::new(dir);
                self.sweep(&store, dir).await;
                Ok(Location {
                    store: Arc::new(store),
                    prefix: String::new(),
                })
            }
            Parsed::S3 {
                bucket,
                prefix,
                google,
            } => {
                let (open, s3) = &mut *self.open.lock().await;
                if google && s3.endpoint.is_none() {
                    return Err(bad(
                        uri,
                        "gs:// is a bucket of the installation's own S3 server, and it has none; write s3://BUCKET/PREFIX/",
                    ));
                }
                if s3.renewed().await {
                    open.clear();
                }
                if open.len() >= MAX_OPEN_STORES && !open.contains_key(bucket) {
                    open.clear();
                }
                let store = match open.get(bucket) {
                    Some(store) => store.clone(),
                    None => {
                        let store: Arc<dyn ObjectStore> = Arc::new(S3Store::new(bucket, s3).await?);
                        open.insert(bucket.to_owned(), store.clone());
                        store
                    }
                };
                Ok(Location { store, prefix })
            }
        }
    }

    /// Copies the object that `uri` names (`s3://BUCKET/KEY`) into the file `to`; its SHA-256 in hex. After an error there may
    /// be part of it.
    ///
    /// # Errors
    /// `TooLarge` beyond `limit` bytes; else those of [`Stores::open`] and [`ObjectStore::get`].
    pub async fn download(&self, uri: &str, to: &Path, limit: u64) -> Result<String> {
        let named = uri.rsplit_once('/').filter(|(_, name)| !name.is_empty());
        let (at, name) = named.ok_or_else(|| bad(uri, "write s3://BUCKET/KEY"))?;
        let at = self.open(at).await?;
        let body = at.store.get(&format!("{}{name}", at.prefix)).await?;
        let (store, uri, to) = (at.store.name(), uri.to_owned(), to.to_owned());
        blocking(move || {
            let mut file = File::create(&to).map_err(error::io("create", &to))?;
            let copied = std::io::copy(&mut body.take(limit + 1), &mut file);
            let copied = copied.map_err(|e| SnapshotError::Unavailable {
                store,
                operation: format!("copying {uri} to {}", to.display()),
                source: e.into(),
            })?;
            if copied > limit {
                let what = format!("object {uri}");
                return Err(SnapshotError::TooLarge { what, limit });
            }
            file.sync_all().map_err(error::io("write", &to))?;
            sha256(&to).map_err(error::io("read", &to))
        })
        .await
    }

    async fn sweep(&self, store: &FileStore, dir: &Path) {
        let first = {
            let mut swept = self.swept.lock().await;
            if swept.len() >= MAX_OPEN_STORES {
                swept.clear();
            }
            swept.insert(dir.to_owned())
        };
        if first {
            let store = store.clone();
            if let Err(error) = blocking(move || store.sweep()).await {
                tracing::warn!(dir = %dir.display(), %error, "what killed processes left stays behind");
            }
        }
    }
}

fn sha256(path: &Path) -> std::io::Result<String> {
    let (mut file, mut sum, mut buffer) = (File::open(path)?, Sha256::new(), vec![0; BUFFER]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex::encode(sum.finalize())),
            n => sum.update(&buffer[..n]),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Parsed<'a> {
    S3 {
        bucket: &'a str,
        prefix: String,
        /// Whether it was `gs://`.
        google: bool,
    },
    File {
        dir: &'a Path,
    },
}

fn parse(uri: &str) -> Result<Parsed<'_>> {
    let bad = |reason| bad(uri, reason);
    let bucket = ["s3://", "gs://"].map(|scheme| uri.strip_prefix(scheme));
    if let [Some(rest), _] | [_, Some(rest)] = bucket {
        let google = bucket[1].is_some();
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b);
        if !(1..=63).contains(&bucket.len()) || !bucket.bytes().all(allowed) {
            return Err(bad(
                "write s3://BUCKET/PREFIX/ with the bucket's name in small letters",
            ));
        }
        let prefix = prefix.trim_end_matches('/');
        if prefix.is_empty() {
            let prefix = String::new();
            return Ok(Parsed::S3 {
                bucket,
                prefix,
                google,
            });
        }
        check_key(prefix).map_err(|_| bad("its prefix has empty, '.' or '..' segments"))?;
        let prefix = format!("{prefix}/");
        Ok(Parsed::S3 {
            bucket,
            prefix,
            google,
        })
    } else if let Some(dir) = uri.strip_prefix("file://") {
        let dir = Path::new(dir);
        let plain = |c: Component| matches!(c, Component::RootDir | Component::Normal(_));
        if !dir.is_absolute() || !dir.components().all(plain) || uri.contains('\0') {
            return Err(bad("write file:///DIR/ with an absolute path without '..'"));
        }
        Ok(Parsed::File { dir })
    } else {
        Err(bad("it must begin with s3://, gs:// or file:///"))
    }
}

fn bad(uri: &str, reason: &str) -> SnapshotError {
    SnapshotError::BadLocation {
        location: uri.to_owned(),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::config;
    use super::super::versitygw::Versitygw;
    use super::*;
    use crate::identity::{Authority, LeafRequest, Usage};

    #[test]
    fn locations() {
        let s3 = |bucket, prefix: &str| Parsed::S3 {
            bucket,
            prefix: prefix.to_owned(),
            google: false,
        };
        let file = |dir: &'static str| Parsed::File {
            dir: Path::new(dir),
        };
        assert_eq!(parse("s3://bucket/a/b/").unwrap(), s3("bucket", "a/b/"));
        assert_eq!(parse("s3://bucket/a").unwrap(), s3("bucket", "a/"));
        assert_eq!(parse("s3://bucket").unwrap(), s3("bucket", ""));
        assert_eq!(parse("file:///var/x/").unwrap(), file("/var/x"));
        for bad in [
            "",
            "/var/x",
            "s3://",
            "s3:///x",
            "s3://Bucket/",
            "s3://b/../c",
            "s3://b//c",
            "file://var/x",
            "file:///a/../b",
            "gs://",
            "http://x/",
        ] {
            let refused = parse(bad);
            assert!(
                matches!(refused, Err(SnapshotError::BadLocation { .. })),
                "{bad}: {refused:?}"
            );
        }
    }

    #[tokio::test]
    async fn google_s_buckets_are_those_of_an_s3_server_of_ones_own() {
        let uri = "gs://bucket/a/b";
        let none = Stores::default().open(uri).await.unwrap_err();
        assert!(none.to_string().contains("it has none"), "{none}");
        let own = Stores::new(S3Config {
            endpoint: Some("https://s3.example".into()),
            ..S3Config::default()
        });
        assert_eq!(own.open(uri).await.unwrap().name(), "s3://bucket/a/b/");
    }

    #[tokio::test]
    async fn another_ca_in_the_file_counts_from_the_next_time_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(path("buckets/sleepers")).unwrap();
        let ca = |name: &str| Authority::load_or_create(&path(name)).unwrap();
        let (old, new) = (ca("old"), ca("new"));
        let (chain, key, trusted) = (path("s3.crt"), path("s3.key"), path("ca.crt"));
        let serve = |by: &Authority| {
            let request = LeafRequest::new("s3", Usage::Server).sans(["localhost"]);
            let leaf = by.leaf(&request).unwrap();
            std::fs::write(&chain, leaf.chain).unwrap();
            std::fs::write(&key, leaf.key).unwrap();
        };
        let trust = |pem: &str| std::fs::write(&trusted, pem).unwrap();
        serve(&old);
        trust(old.certificate());
        let mut server = Versitygw::start(&path("buckets"), Some((chain.clone(), key.clone())));
        let stores = Stores::new(S3Config {
            ca: std::fs::read(&trusted).ok(),
            ca_file: Some(trusted.clone()),
            ..config(&server)
        });
        let reached = async || {
            let at = stores.open("s3://sleepers").await.unwrap();
            at.store.list("", None).await.map(drop)
        };
        reached().await.unwrap();

        serve(&new);
        server.restart();
        let said = reached().await.unwrap_err();
        assert!(matches!(said, SnapshotError::Unavailable { .. }), "{said}");
        // What cannot be used changes nothing.
        trust("half a certif");
        assert!(reached().await.is_err());
        let both = format!("{}{}", old.certificate(), new.certificate());
        trust(&both);
        reached().await.unwrap();
        // And the server may still be the one before.
        serve(&old);
        server.restart();
        reached().await.unwrap();
        trust(new.certificate());
        assert!(reached().await.is_err(), "trusted no more");
    }

    #[test]
    fn secrets_stay_out_of_debug() {
        let key = S3Credentials {
            access_key_id: "id".into(),
            secret_access_key: "hush".into(),
            session_token: Some("hush".into()),
        };
        assert!(!format!("{key:?}").contains("hush"));
    }
}
