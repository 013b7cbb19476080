//! The runtime's executable: found on PATH or fetched, held against its SHA-256 and the operator's allow-list.

use super::download::{Downloader, Limits};
use super::error::Error;
use super::files;
use super::layout::Layout;
use super::outcome::Failure;
use crate::api::Reason;
use crate::proto::atenode::{GvisorConfig, RuntimeConfig, runtime_config::Backend};
use crate::snapshot::Stores;
use crate::telemetry::chain;
use sha2::{Digest, Sha256};
use std::collections::{BTreeSet, HashMap};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::timeout;

/// Largest executable that is fetched, in bytes; a build of runsc is below 100 MB.
const MAX_BYTES: u64 = 512 << 20;
/// How long fetching one may take; a server that falls silent is given up much earlier.
const FETCH: Limits = Limits {
    bytes: MAX_BYTES,
    connect: Duration::from_secs(10),
    silence: Duration::from_secs(30),
    total: Duration::from_secs(300),
};
/// Where objects of Google's buckets are that everybody may read: `gs://gvisor/...`, which existing manifests name.
const GOOGLE: &str = "https://storage.googleapis.com";
const EXECUTABLE: &str = "runsc";
const BUFFER: usize = 1 << 20;

/// A runtime that may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Runtime {
    pub path: PathBuf,
    /// Its SHA-256 in hex: what snapshots name as their build.
    pub build: String,
}

pub(super) struct Runtimes {
    dir: PathBuf,
    allowed: BTreeSet<String>,
    from_path: bool,
    /// What is on PATH is copied first: not everybody who runs it has our PATH.
    keep: bool,
    /// By path: what identified the file's content when it was hashed, and the hash.
    hashed: Mutex<HashMap<PathBuf, (Stamp, String)>>,
    downloader: Downloader,
    google: String,
    stores: Arc<Stores>,
    /// One fetch at a time.
    fetching: tokio::sync::Mutex<()>,
}

/// Begins the name of a runtime that is not complete yet.
const DRAFT: char = '.';

/// Device, inode, length, modification time.
type Stamp = (u64, u64, u64, i64, i64);

impl Runtimes {
    pub fn new(
        layout: &Layout,
        allowed: BTreeSet<String>,
        from_path: bool,
        keep: bool,
        stores: Arc<Stores>,
    ) -> Runtimes {
        Runtimes {
            dir: layout.runtimes(),
            allowed,
            from_path,
            keep,
            hashed: Mutex::default(),
            downloader: Downloader::new(FETCH),
            google: GOOGLE.to_owned(),
            stores,
            fetching: tokio::sync::Mutex::default(),
        }
    }

    /// Removes what an earlier node agent had fetched half.
    pub fn sweep(&self) -> Result<(), Error> {
        for name in files::names(&self.dir)? {
            if name.starts_with(DRAFT) {
                files::remove_file(&self.dir.join(name))?;
            }
        }
        Ok(())
    }

    /// The runtime that a workload names.
    pub async fn resolve(&self, config: Option<&RuntimeConfig>) -> Result<Runtime, Failure> {
        match config.and_then(|c| c.backend.as_ref()) {
            Some(Backend::Gvisor(gvisor)) if gvisor.url.is_empty() => self.on_path().await,
            Some(Backend::Gvisor(gvisor)) => self.named(gvisor).await,
            Some(Backend::Criu(_) | Backend::Microvm(_)) => {
                Err(unavailable("this node runs sandboxes of class gvisor only"))
            }
            None => Err(Failure::Invalid("workload.runtime is missing".into())),
        }
    }

    /// Build of the runtime of workloads that name none, if there is one that may run.
    pub async fn usual(&self) -> Option<String> {
        self.found().await.ok().map(|found| found.build)
    }

    async fn on_path(&self) -> Result<Runtime, Failure> {
        let Runtime { mut path, build } = self.found().await?;
        if self.keep {
            path = self.kept(&path, &build).await?;
        }
        Ok(Runtime { path, build })
    }

    async fn found(&self) -> Result<Runtime, Failure> {
        let found = std::env::var_os("PATH").and_then(|path| {
            let files = std::env::split_paths(&path).map(|dir| dir.join(EXECUTABLE));
            files.into_iter().find(|file| is_executable(file))
        });
        let path = found.ok_or_else(|| {
            unavailable("no runsc on the node's PATH; install it, or name one in spec.runsc")
        })?;
        let build = self.sum(&path).await?;
        if !self.from_path && !self.allowed.contains(&build) {
            return Err(not_allowed(&build));
        }
        Ok(Runtime { path, build })
    }

    /// A copy of the executable, which others may be shown.
    async fn kept(&self, path: &Path, sha256: &str) -> Result<PathBuf, Failure> {
        let kept = self.dir.join(sha256);
        if !self.is_whole(&kept, sha256).await {
            let _one = self.fetching.lock().await;
            if !self.is_whole(&kept, sha256).await {
                let url = format!("file://{}", path.display());
                self.fetch(&url, sha256, &kept).await?;
            }
        }
        Ok(kept)
    }

    async fn named(&self, config: &GvisorConfig) -> Result<Runtime, Failure> {
        let GvisorConfig { url, sha256 } = config;
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if sha256.len() != 64 || !sha256.bytes().all(hex) {
            return Err(unavailable(
                "spec.runsc: sha256Hash must be 64 lower-case hexadecimal digits",
            ));
        }
        if !self.allowed.contains(sha256) {
            // What is on PATH is allowed whatever its URL is said to be.
            return match self.on_path().await {
                Ok(runtime) if runtime.build == *sha256 => Ok(runtime),
                _ => Err(not_allowed(sha256)),
            };
        }
        let path = self.dir.join(sha256);
        if !self.is_whole(&path, sha256).await {
            let _one = self.fetching.lock().await;
            if !self.is_whole(&path, sha256).await {
                self.fetch(url, sha256, &path).await?;
            }
        }
        Ok(Runtime {
            path,
            build: sha256.clone(),
        })
    }

    /// Whether it was fetched, and is still what it was: what is kept outlives us, and not every disk is kind.
    async fn is_whole(&self, path: &Path, sha256: &str) -> bool {
        path.exists() && self.sum(path).await.is_ok_and(|sum| sum == sha256)
    }

    async fn fetch(&self, url: &str, sha256: &str, path: &Path) -> Result<(), Failure> {
        let draft = self.dir.join(format!("{DRAFT}{sha256}"));
        let fetched = match url.split_once("://") {
            Some(("file", from)) => self.copy(Path::new(from), &draft).await,
            Some(("https", _)) => self.downloader.fetch(url, &draft).await,
            Some(("gs", object)) => {
                let url = format!("{}/{object}", self.google);
                self.downloader.fetch(&url, &draft).await
            }
            Some(("s3", _)) => self.fetch_object(url, &draft).await,
            _ => Err("it must begin with https://, gs://, s3:// or file:///".into()),
        };
        let sum = fetched.map_err(|why| unavailable(format!("spec.runsc: {url}: {why}")));
        let result = sum.and_then(|sum| {
            if sum != sha256 {
                return Err(unavailable(format!(
                    "spec.runsc: {url} has SHA-256 {sum}, not {sha256}; correct sha256Hash in a new template"
                )));
            }
            std::fs::set_permissions(&draft, PermissionsExt::from_mode(0o755))
                .and_then(|()| std::fs::rename(&draft, path))
                .map_err(|e| unavailable(format!("spec.runsc: {url}: {e}")))
        });
        if result.is_err() {
            let _ = std::fs::remove_file(&draft);
        }
        result
    }

    /// From where snapshots may be too.
    async fn fetch_object(&self, url: &str, to: &Path) -> Result<String, String> {
        let fetched = self.stores.download(url, to, FETCH.bytes);
        match timeout(FETCH.total, fetched).await {
            Ok(fetched) => fetched.map_err(|e| chain(&e)),
            Err(_) => Err(format!("not fetched within {:?}", FETCH.total)),
        }
    }

    async fn copy(&self, from: &Path, to: &Path) -> Result<String, String> {
        let (source, to) = (from.to_owned(), to.to_owned());
        let copied = tokio::task::spawn_blocking(move || {
            let length = std::fs::metadata(&source)?.len();
            if length > MAX_BYTES {
                return Err(io::Error::other(format!("it is over {MAX_BYTES} bytes")));
            }
            std::fs::copy(&source, &to)?;
            sha256_of(&to)
        });
        match copied.await {
            Ok(Ok(sum)) => Ok(sum),
            Ok(Err(e)) => Err(e.to_string()),
            Err(_) => Err("copying it failed".into()),
        }
    }

    /// The hash of a file, computed once for as long as it stays the same.
    async fn sum(&self, path: &Path) -> Result<String, Failure> {
        let failed = |e: io::Error| unavailable(format!("cannot read {}: {e}", path.display()));
        let stamp = stamp(path).map_err(failed)?;
        if let Some((known, sum)) = self.hashed().get(path)
            && *known == stamp
        {
            return Ok(sum.clone());
        }
        let file = path.to_owned();
        let sum = tokio::task::spawn_blocking(move || sha256_of(&file)).await;
        let sum = sum.map_err(io::Error::other).flatten().map_err(failed)?;
        self.hashed().insert(path.to_owned(), (stamp, sum.clone()));
        Ok(sum)
    }

    fn hashed(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, (Stamp, String)>> {
        self.hashed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sha256_of(path: &Path) -> io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex::encode(hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let meta = std::fs::metadata(path)?;
    Ok((
        meta.dev(),
        meta.ino(),
        meta.len(),
        meta.mtime(),
        meta.mtime_nsec(),
    ))
}

fn is_executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

fn unavailable(message: impl Into<String>) -> Failure {
    Failure::Failed(Reason::RuntimeUnavailable, message.into())
}

fn not_allowed(sha256: &str) -> Failure {
    unavailable(format!(
        "spec.runsc: the runtime with SHA-256 {sha256} is not on the operator's allow-list; leave spec.runsc out to use \
         the one on the node, or have --allow-runtime {sha256} added"
    ))
}

#[cfg(test)]
mod tests {
    use super::super::https::{Https, respond, stall};
    use super::*;
    use crate::identity::{Authority, LeafRequest, Usage};
    use crate::snapshot::{testing, versitygw::Versitygw};

    fn named(url: String, sha256: &str) -> RuntimeConfig {
        RuntimeConfig {
            backend: Some(Backend::Gvisor(GvisorConfig {
                url,
                sha256: sha256.into(),
            })),
        }
    }

    fn message(failure: Failure) -> String {
        match failure {
            Failure::Failed(Reason::RuntimeUnavailable, message) => message,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn a_named_runtime_is_verified_allowed_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(&dir.path().join("node")).unwrap();
        let file = dir.path().join("some-runsc");
        std::fs::write(&file, "#!").unwrap();
        let sum = sha256_of(&file).unwrap();
        let other = "0".repeat(64);
        let allowed = BTreeSet::from([sum.clone(), other.clone()]);
        let runtimes = Runtimes::new(&layout, allowed, false, false, Arc::default());
        let url = format!("file://{}", file.display());

        let wrong = runtimes.resolve(Some(&named(url.clone(), &other))).await;
        assert!(
            message(wrong.unwrap_err()).contains(&sum),
            "says what it is"
        );
        let strange = "1".repeat(64);
        let strange = runtimes.resolve(Some(&named(url.clone(), &strange))).await;
        assert!(message(strange.unwrap_err()).contains("allow-list"));
        for (url, word) in [
            ("s3://B/runsc", "small letters"),
            ("s3://b/", "s3://BUCKET/KEY"),
            ("http://h/runsc", "https://"),
            ("file:///nowhere/runsc", "No such file"),
        ] {
            let failed = runtimes.resolve(Some(&named(url.into(), &sum))).await;
            let message = message(failed.unwrap_err());
            assert!(message.contains(word), "{url}: {message}");
        }

        let found = runtimes.resolve(Some(&named(url.clone(), &sum))).await;
        let found = found.unwrap();
        assert_eq!(found.build, sum);
        std::fs::remove_file(&file).unwrap();
        let again = runtimes.resolve(Some(&named(url, &sum))).await.unwrap();
        assert_eq!(again, found, "needs its origin no more");
        assert!(is_executable(&found.path));
    }

    /// A runtime that is allowed, served by HTTPS, and a directory that fetches it.
    struct Served {
        runtimes: Runtimes,
        server: Https,
        sum: String,
        dir: tempfile::TempDir,
    }

    const RUNSC: &[u8] = b"#! a runtime";
    const SHORT: Limits = Limits {
        bytes: 1 << 20,
        connect: Duration::from_secs(10),
        silence: Duration::from_millis(300),
        total: Duration::from_secs(20),
    };

    fn served(limits: Limits) -> Served {
        let dir = tempfile::tempdir().unwrap();
        let ca = Authority::load_or_create(&dir.path().join("pki")).unwrap();
        let request = LeafRequest::new("server", Usage::Server).sans(["localhost"]);
        let leaf = ca.leaf(&request).unwrap();
        let plain = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let to_plain = format!(
            "HTTP/1.1 302 Found\r\nlocation: http://{}/runsc\r\ncontent-length: 0\r\n\r\n",
            plain.local_addr().unwrap()
        );
        let server = Https::start(&leaf.chain, &leaf.key, move |path, to| match path {
            "/runsc" | "/bucket/runsc" => respond(to, "200 OK", RUNSC, RUNSC.len()),
            "/broken" => respond(to, "200 OK", &RUNSC[..4], RUNSC.len()),
            "/large" => respond(to, "200 OK", &[0; 4096], 4096),
            "/plain" => std::io::Write::write_all(to, to_plain.as_bytes()).unwrap(),
            "/stalled" => {
                respond(to, "200 OK", &RUNSC[..4], RUNSC.len());
                stall(to);
            }
            _ => respond(to, "404 Not Found", b"", 0),
        });
        let layout = Layout::create(&dir.path().join("node")).unwrap();
        let sum = hex::encode(Sha256::digest(RUNSC));
        let mut runtimes = Runtimes::new(
            &layout,
            BTreeSet::from([sum.clone()]),
            false,
            false,
            Arc::default(),
        );
        runtimes.downloader = Downloader::trusting(ca.certificate(), limits);
        runtimes.google = server.url("");
        Served {
            runtimes,
            server,
            sum,
            dir,
        }
    }

    impl Served {
        async fn get(&self, path: &str, sha256: &str) -> Result<Runtime, Failure> {
            let config = named(self.server.url(path), sha256);
            self.runtimes.resolve(Some(&config)).await
        }

        fn kept(&self) -> Vec<std::ffi::OsString> {
            let kept = std::fs::read_dir(self.dir.path().join("node/runtimes")).unwrap();
            kept.map(|entry| entry.unwrap().file_name()).collect()
        }
    }

    #[tokio::test]
    async fn by_https_it_is_fetched_once_and_again_only_when_it_was_damaged() {
        let served = served(FETCH);
        let got = futures::future::join_all((0..4).map(|_| served.get("/runsc", &served.sum)));
        for runtime in got.await {
            assert!(is_executable(&runtime.unwrap().path));
        }
        let kept = served.get("/runsc", &served.sum).await.unwrap();
        assert_eq!(std::fs::read(&kept.path).unwrap(), RUNSC);
        assert_eq!(served.server.requests(), 1);

        std::fs::write(&kept.path, "#! another one").unwrap();
        let again = served.get("/runsc", &served.sum).await.unwrap();
        assert_eq!(std::fs::read(&again.path).unwrap(), RUNSC);
        assert_eq!(served.server.requests(), 2);
    }

    #[tokio::test]
    async fn one_in_a_bucket_of_googles_is_fetched_by_https() {
        let served = served(FETCH);
        let named = named("gs://bucket/runsc".into(), &served.sum);
        let got = served.runtimes.resolve(Some(&named)).await.unwrap();
        assert_eq!(std::fs::read(&got.path).unwrap(), RUNSC);
    }

    #[tokio::test]
    async fn one_in_an_s3_bucket_is_fetched_as_snapshots_are() {
        let dir = tempfile::tempdir().unwrap();
        let buckets = dir.path().join("buckets");
        std::fs::create_dir_all(buckets.join("tools/gvisor")).unwrap();
        std::fs::write(buckets.join("tools/gvisor/runsc"), RUNSC).unwrap();
        let server = Versitygw::start(&buckets, None);
        let layout = Layout::create(&dir.path().join("node")).unwrap();
        let sum = hex::encode(Sha256::digest(RUNSC));
        let allowed = BTreeSet::from([sum.clone()]);
        let stores = Arc::new(Stores::new(testing::config(&server)));
        let runtimes = Runtimes::new(&layout, allowed, false, false, stores);
        let get = async |url: &str| runtimes.resolve(Some(&named(url.into(), &sum))).await;
        for (url, word) in [
            ("s3://tools/gvisor/none", "no object"),
            ("s3://nowhere/runsc", "no such bucket"),
        ] {
            let said = message(get(url).await.unwrap_err());
            assert!(said.contains(word) && said.contains(url), "{url}: {said}");
        }
        let got = get("s3://tools/gvisor/runsc").await.unwrap();
        assert_eq!(std::fs::read(&got.path).unwrap(), RUNSC);
        assert!(is_executable(&got.path));
        drop(server);
        assert_eq!(get("s3://tools/gvisor/runsc").await.unwrap(), got, "kept");
    }

    #[tokio::test]
    async fn what_https_does_not_bring_whole_is_refused_and_leaves_nothing() {
        let (mut served, impatient) = (served(FETCH), served(SHORT));
        let other = "0".repeat(64);
        served.runtimes.allowed.insert(other.clone());
        let (sum, same) = (served.sum.clone(), impatient.sum.clone());
        for (served, path, sha256, words) in [
            (&served, "/runsc", &other, ["SHA-256", "sha256Hash"]),
            (
                &served,
                "/broken",
                &sum,
                ["spec.runsc", "closed connection"],
            ),
            (&served, "/nowhere", &sum, ["spec.runsc", "404"]),
            (&served, "/plain", &sum, ["redirect", "scheme"]),
            (&impatient, "/stalled", &same, ["spec.runsc", "timed out"]),
        ] {
            let said = message(served.get(path, sha256).await.unwrap_err());
            let told = words.iter().all(|word| said.contains(word));
            assert!(told && said.contains(path), "{path}: {said}");
            assert!(served.kept().is_empty(), "{path}: {:?}", served.kept());
        }
        served.get("/runsc", &sum).await.unwrap();
    }

    #[tokio::test]
    async fn a_download_is_bounded_in_bytes_and_in_time_and_in_trust() {
        let small = Limits {
            bytes: 100,
            ..SHORT
        };
        let large = served(small);
        let said = message(large.get("/large", &large.sum).await.unwrap_err());
        assert!(said.contains("over 100 bytes"), "{said}");

        let slow = Limits {
            silence: Duration::from_secs(60),
            total: Duration::from_millis(300),
            ..SHORT
        };
        let slow = served(slow);
        let said = message(slow.get("/stalled", &slow.sum).await.unwrap_err());
        assert!(said.contains("not fetched within 300ms"), "{said}");

        let mut strange = served(SHORT);
        strange.runtimes.downloader = Downloader::new(SHORT);
        let said = message(strange.get("/runsc", &strange.sum).await.unwrap_err());
        assert!(said.contains("certificate"), "{said}");
        assert_eq!(strange.server.requests(), 0);
    }

    #[tokio::test]
    async fn the_one_on_path_is_allowed_only_if_the_operator_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        let unnamed = named(String::new(), "");
        let strict = Runtimes::new(&layout, BTreeSet::new(), false, false, Arc::default());
        assert_eq!(strict.usual().await, None);
        let refused = strict.resolve(Some(&unnamed)).await.unwrap_err();
        assert!(message(refused).contains("allow-list"));
        let dev = Runtimes::new(&layout, BTreeSet::new(), true, false, Arc::default());
        let found = dev.resolve(Some(&unnamed)).await.unwrap();
        assert_eq!(dev.usual().await.as_ref(), Some(&found.build));
        let named = named("gs://elsewhere/runsc".into(), &found.build);
        assert_eq!(dev.resolve(Some(&named)).await.unwrap(), found);
    }
}
