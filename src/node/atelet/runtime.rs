//! The runtime's executable: found on PATH or fetched, held against its SHA-256 and the operator's allow-list.

use super::error::chain;
use super::layout::Layout;
use super::outcome::Failure;
use crate::api::Reason;
use crate::proto::atenode::{GvisorConfig, RuntimeConfig, runtime_config::Backend};
use futures::StreamExt;
use sha2::{Digest, Sha256};
use std::collections::{BTreeSet, HashMap};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// Largest executable that is fetched, in bytes; a build of runsc is below 100 MB.
const MAX_BYTES: u64 = 512 << 20;
/// How long fetching one may take.
const FETCH_LIMIT: Duration = Duration::from_secs(300);
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
    /// By path: what identified the file's content when it was hashed, and the hash.
    hashed: Mutex<HashMap<PathBuf, (Stamp, String)>>,
    /// One fetch at a time.
    fetching: tokio::sync::Mutex<()>,
}

/// Device, inode, length, modification time.
type Stamp = (u64, u64, u64, i64, i64);

impl Runtimes {
    pub fn new(layout: &Layout, allowed: BTreeSet<String>, from_path: bool) -> Runtimes {
        Runtimes {
            dir: layout.runtimes(),
            allowed,
            from_path,
            hashed: Mutex::default(),
            fetching: tokio::sync::Mutex::default(),
        }
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

    async fn on_path(&self) -> Result<Runtime, Failure> {
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
        if !path.exists() {
            let _one = self.fetching.lock().await;
            if !path.exists() {
                self.fetch(url, sha256, &path).await?;
            }
        }
        Ok(Runtime {
            path,
            build: sha256.clone(),
        })
    }

    async fn fetch(&self, url: &str, sha256: &str, path: &Path) -> Result<(), Failure> {
        let draft = self.dir.join(format!(".{sha256}"));
        let fetched = match url.split_once("://") {
            Some(("file", from)) => self.copy(Path::new(from), &draft).await,
            Some(("https", _)) => download(url, &draft).await,
            Some((scheme @ ("gs" | "s3"), _)) => Err(format!(
                "runtimes from {scheme}:// come with a later version; use https:// or file://"
            )),
            _ => Err("it must begin with https:// or file:///".into()),
        };
        let sum = fetched.map_err(|why| unavailable(format!("runtime {url}: {why}")));
        let result = sum.and_then(|sum| {
            if sum != sha256 {
                return Err(unavailable(format!(
                    "runtime {url} has SHA-256 {sum}, not {sha256} as spec.runsc says"
                )));
            }
            std::fs::set_permissions(&draft, PermissionsExt::from_mode(0o755))
                .and_then(|()| std::fs::rename(&draft, path))
                .map_err(|e| unavailable(format!("runtime {url}: {e}")))
        });
        if result.is_err() {
            let _ = std::fs::remove_file(&draft);
        }
        result
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

async fn download(url: &str, to: &Path) -> Result<String, String> {
    let fetch = async {
        let response = reqwest::get(url).await?.error_for_status()?;
        let mut body = response.bytes_stream();
        let mut file = tokio::fs::File::create(to).await?;
        let (mut hash, mut bytes) = (Sha256::new(), 0u64);
        while let Some(chunk) = body.next().await {
            let chunk = chunk?;
            bytes += chunk.len() as u64;
            if bytes > MAX_BYTES {
                return Err(format!("it is over {MAX_BYTES} bytes").into());
            }
            hash.update(&chunk);
            file.write_all(&chunk).await?;
        }
        file.flush().await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(hex::encode(hash.finalize()))
    };
    match tokio::time::timeout(FETCH_LIMIT, fetch).await {
        Ok(result) => result.map_err(|e| chain(&*e)),
        Err(_) => Err(format!("not fetched within {} s", FETCH_LIMIT.as_secs())),
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
        "the runtime with SHA-256 {sha256} is not on the operator's allow-list"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let runtimes = Runtimes::new(&layout, allowed, false);
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
            ("gs://gvisor/runsc", "later version"),
            ("s3://b/runsc", "later version"),
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

    #[tokio::test]
    async fn the_one_on_path_is_allowed_only_if_the_operator_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        let unnamed = named(String::new(), "");
        let strict = Runtimes::new(&layout, BTreeSet::new(), false);
        let refused = strict.resolve(Some(&unnamed)).await.unwrap_err();
        assert!(message(refused).contains("allow-list"));
        let dev = Runtimes::new(&layout, BTreeSet::new(), true);
        let found = dev.resolve(Some(&unnamed)).await.unwrap();
        let named = named("gs://elsewhere/runsc".into(), &found.build);
        assert_eq!(dev.resolve(Some(&named)).await.unwrap(), found);
    }
}
