//! The images of a node: each unpacked once, complete or not there.
//!
//! Below the store's directory: `images/HEX/` with `rootfs/` and `image.json`, which appears by a rename once everything
//! in it is on disk; `refs/HEX` maps an index to the image chosen from it; `tmp/HEX/` and
//! `tmp/HEX.ref` are work in progress, which belongs to whoever holds `locks/HEX` and is worth nothing to anybody else.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures::StreamExt;
use serde::{Deserialize, Serialize};

use crate::failpoint;

use super::cache::Uses;
use super::credentials::Credentials;
use super::error::{io, refused};
use super::manifest::{self, Descriptor, Document, Manifest};
use super::registry::Patience;
use super::source::Source;
use super::unpack::{self, Totals, Unpack};
use super::{
    Digest, ImageConfig, ImageError, ImageRef, ResolvedUser, Result, blob, blocking, user,
};

/// How long another process may take to unpack the same image.
const LOCK_WAIT: Duration = Duration::from_secs(30 * 60);
/// How often the lock is tried meanwhile.
const LOCK_POLL: Duration = Duration::from_millis(50);
/// Layers of one image that are downloaded at the same time.
const PARALLEL_LAYERS: usize = 3;
/// Images contain setuid programs of others: nobody but root may get at them.
const PRIVATE: u32 = 0o700;

/// A directory of unpacked images. Clones share it, and several processes may use one directory.
#[derive(Clone, Debug)]
pub struct ImageStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) root: PathBuf,
    patience: Patience,
    pub(super) uses: Uses,
    /// One at a time for each digest in this process; the lock files are for the others.
    flights: tokio::sync::Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>,
}

/// An image on this node, ready to run. Its files are shared: mount them read-only or under an overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnpackedImage {
    /// The directory that is `/` in the image.
    pub rootfs: PathBuf,
    /// How it wants to be run.
    pub config: ImageConfig,
    /// Of the image's manifest (not of the index that it was chosen from).
    pub digest: Digest,
}

/// What `image.json` holds.
#[derive(Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) digest: Digest,
    config: ImageConfig,
    /// Of its files together.
    #[serde(default)]
    pub(super) bytes: u64,
}

impl UnpackedImage {
    /// Who `user` is in this image: `""`, `user`, `user:group`, by name or number. Without `user` the image's own choice.
    ///
    /// # Errors
    /// `BadUser` when the image does not know a name; `Io`. Blocks for reading two small files.
    pub fn user(&self, user: Option<&str>) -> Result<ResolvedUser> {
        user::resolve(&self.rootfs, user.unwrap_or(&self.config.user))
    }

    /// Makes the directory `name` if it is missing, for something to be mounted there.
    ///
    /// # Errors
    /// `Refused` when something else is in the way; `Io`. Blocks for a few calls.
    pub fn make_dir(&self, name: &str) -> Result<()> {
        unpack::make_dir(&self.rootfs, name)
    }

    /// Makes `name` a file, an empty one if it is not one yet, for another to be mounted there. A symlink is replaced.
    ///
    /// # Errors
    /// `Refused` when something else is in the way; `Io`. Blocks for a few calls.
    pub fn make_file(&self, name: &str) -> Result<()> {
        unpack::make_file(&self.rootfs, name)
    }
}

impl ImageStore {
    /// The store in `root`, made if missing. What a killed process left half unpacked is removed.
    ///
    /// # Errors
    /// `Io`.
    pub async fn open(root: &Path) -> Result<Self> {
        Self::open_with(root, Patience::default()).await
    }

    pub(super) async fn open_with(root: &Path, patience: Patience) -> Result<Self> {
        let root = root.to_owned();
        blocking(move || {
            for dir in ["images", "refs", "tmp", "locks"] {
                let dir = root.join(dir);
                let mut make = fs::DirBuilder::new();
                let made = make.recursive(true).mode(PRIVATE).create(&dir);
                made.map_err(io("create", &dir))?;
            }
            let private = fs::Permissions::from_mode(PRIVATE);
            fs::set_permissions(&root, private).map_err(io("protect", &root))?;
            let inner = Inner {
                root,
                patience,
                uses: Uses::default(),
                flights: tokio::sync::Mutex::default(),
            };
            inner.sweep()?;
            Ok(Self {
                inner: Arc::new(inner),
            })
        })
        .await
    }

    /// The image if it is here.
    ///
    /// # Errors
    /// `Io`.
    pub async fn find(&self, image: &ImageRef) -> Result<Option<UnpackedImage>> {
        self.inner.find(image.digest.clone()).await
    }

    /// Notes that an image that was found before is used again.
    pub fn used(&self, image: &UnpackedImage) {
        self.inner.uses.note(&image.digest);
    }

    /// Makes room: images that nobody asked for lately and that are not `pinned` go, the longest unused first, until the others take at
    /// most `budget` bytes. A digest of an index pins what was chosen from it. Returns what went.
    ///
    /// # Errors
    /// `Io`.
    pub async fn trim(&self, budget: u64, pinned: HashSet<Digest>) -> Result<Vec<Digest>> {
        let inner = self.inner.clone();
        blocking(move || inner.trim(budget, &pinned)).await
    }

    /// The image, fetched with `credentials` and unpacked if it is not here yet. Whoever asks for the same meanwhile waits for the one that
    /// works; the work goes on when a caller goes away. Progress is told as `tracing` events.
    ///
    /// # Errors
    /// `NotFound`, `NotAllowed`, `Unavailable`, `DigestMismatch`, `Refused`, `Io`; nothing of the image is here then.
    pub async fn ensure(
        &self,
        image: &ImageRef,
        credentials: &Credentials,
    ) -> Result<UnpackedImage> {
        if let Some(found) = self.find(image).await? {
            return Ok(found);
        }
        let (inner, image) = (self.inner.clone(), image.clone());
        let credentials = credentials.clone();
        let work = tokio::spawn(async move { inner.ensure(&image, &credentials).await });
        work.await.unwrap_or_else(|join| {
            let what = format!("the unpacking of an image ended early: {join}");
            Err(ImageError::Bug { what })
        })
    }
}

impl Inner {
    async fn ensure(
        self: Arc<Self>,
        image: &ImageRef,
        credentials: &Credentials,
    ) -> Result<UnpackedImage> {
        let flight = self.flight(&image.digest).await;
        let _one = flight.lock().await;
        if let Some(found) = self.clone().find(image.digest.clone()).await? {
            return Ok(found);
        }
        let source = Source::open(image, credentials, &self.patience)?;
        let (digest, manifest) = resolve(&source, &image.digest).await?;
        let lock = self.lock(&digest).await?;
        let unpacked = match self.clone().find(digest.clone()).await? {
            Some(found) => found,
            None => {
                self.clone()
                    .unpack(&source, image, &digest, manifest)
                    .await?
            }
        };
        if digest != image.digest {
            let (inner, index) = (self.clone(), image.digest.clone());
            blocking(move || inner.remember(&index, &digest)).await?;
        }
        drop(lock);
        Ok(unpacked)
    }

    /// Fetches and unpacks into `tmp`, then gives it its name. The caller holds the lock.
    async fn unpack(
        self: Arc<Self>,
        source: &Source,
        image: &ImageRef,
        digest: &Digest,
        manifest: Manifest,
    ) -> Result<UnpackedImage> {
        let begun = Instant::now();
        tracing::info!(%image, layers = manifest.layers.len(), "image unpacking begins");
        let tmp = self.tmp(digest);
        let work = Work::begin(tmp.clone()).await?;
        failpoint::crash("image.unpack.before");
        let config = manifest::read_config(&source.config(&manifest.config).await?)?;

        let blobs = tmp.join("blobs");
        let count = manifest.layers.len();
        // Each layer is unpacked as soon as it and those below it are here, while others are on their way.
        let (sender, receiver) = tokio::sync::mpsc::channel(PARALLEL_LAYERS);
        let unpacking = tokio::spawn(blocking(move || {
            let unpacked = unpack_all(&tmp, receiver)?;
            Ok((work, tmp, unpacked))
        }));
        let layers = manifest.layers.into_iter().enumerate();
        // A layer may be there twice, so its digest does not name the file.
        let layers = layers.map(|(i, layer)| fetch_layer(source, layer, blobs.join(i.to_string())));
        let mut layers = futures::stream::iter(layers).buffered(PARALLEL_LAYERS);
        let mut fetched = Ok(());
        while let Some(layer) = layers.next().await {
            match layer {
                Ok(layer) => {
                    // Nobody takes it when unpacking failed, which says why.
                    if sender.send(layer).await.is_err() {
                        break;
                    }
                }
                Err(error) => {
                    fetched = Err(error);
                    break;
                }
            }
        }
        drop((sender, layers));
        let (work, tmp, (layers, done)) = unpacking.await.unwrap_or_else(|join| {
            let what = format!("the unpacking of an image ended early: {join}");
            Err(ImageError::Bug { what })
        })?;
        fetched?;
        if layers != count {
            let what = format!("{layers} of {count} layers were unpacked");
            return Err(ImageError::Bug { what });
        }
        let record = Record {
            digest: digest.clone(),
            config,
            bytes: done.bytes,
        };
        let shown = image.to_string();
        blocking(move || {
            self.complete(&tmp, &record)?;
            drop(work);
            tracing::info!(
                image = shown,
                files = done.files,
                bytes = done.bytes,
                skipped_devices = done.skipped_devices,
                ms = begun.elapsed().as_millis() as u64,
                "image unpacked"
            );
            self.read(&record.digest)?
                .ok_or_else(|| refused("the image", "it vanished when it was complete"))
        })
        .await
    }

    /// Makes `content` durable and visible.
    fn complete(&self, tmp: &Path, record: &Record) -> Result<()> {
        let content = tmp.join("content");
        let path = content.join("image.json");
        let json = serde_json::to_vec(record).map_err(|e| ImageError::Bug {
            what: format!("an image record cannot be encoded: {e}"),
        })?;
        fs::write(&path, json).map_err(io("write", &path))?;
        // A name that outlives a power cut must not outlive the content of thousands of small files.
        let dir = File::open(&content).map_err(io("open", &content))?;
        nix::unistd::syncfs(&dir).map_err(io("flush", &content))?;
        let to = self.image(&record.digest);
        failpoint::crash("image.unpack.after");
        failpoint::crash("image.complete.before");
        fs::rename(&content, &to).map_err(io("complete", &to))?;
        failpoint::crash("image.complete.after");
        sync_dir(&self.root.join("images"))
    }

    async fn find(self: &Arc<Self>, digest: Digest) -> Result<Option<UnpackedImage>> {
        let inner = self.clone();
        blocking(move || {
            if let Some(image) = inner.read(&digest)? {
                return Ok(Some(image));
            }
            let path = inner.root.join("refs").join(digest.hex());
            match fs::read_to_string(&path) {
                // A reference that is not readable is made anew.
                Ok(chosen) => chosen.parse().map_or(Ok(None), |d| inner.read(&d)),
                Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
                Err(e) => Err(io("read", &path)(e)),
            }
        })
        .await
    }

    fn read(&self, digest: &Digest) -> Result<Option<UnpackedImage>> {
        let dir = self.image(digest);
        let path = dir.join("image.json");
        let json = match fs::read(&path) {
            Ok(json) => json,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io("read", &path)(e)),
        };
        let record: Record = serde_json::from_slice(&json).map_err(|e| ImageError::Io {
            operation: "read",
            path,
            source: e.into(),
        })?;
        self.uses.note(digest);
        Ok(Some(UnpackedImage {
            rootfs: dir.join("rootfs"),
            config: record.config,
            digest: record.digest,
        }))
    }

    /// Notes which image was chosen from an index, so that it needs no registry next time. The caller holds the lock of the
    /// chosen one.
    fn remember(&self, index: &Digest, chosen: &Digest) -> Result<()> {
        let new = self.tmp(chosen).with_extension("ref");
        fs::write(&new, chosen.to_string()).map_err(io("write", &new))?;
        let to = self.root.join("refs").join(index.hex());
        fs::rename(&new, &to).map_err(io("write", &to))
    }

    async fn flight(&self, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut flights = self.flights.lock().await;
        flights.retain(|_, flight| flight.strong_count() > 0);
        if let Some(flight) = flights.get(digest).and_then(Weak::upgrade) {
            return flight;
        }
        let flight = Arc::default();
        flights.insert(digest.clone(), Arc::downgrade(&flight));
        flight
    }

    /// Holds other processes off `digest` until the file is dropped.
    async fn lock(&self, digest: &Digest) -> Result<File> {
        let path = self.root.join("locks").join(digest.hex());
        let until = Instant::now() + LOCK_WAIT;
        loop {
            if let Some(lock) = try_lock(&path)? {
                return Ok(lock);
            }
            if Instant::now() >= until {
                return Err(ImageError::Unavailable {
                    what: format!("image {digest}, which another process unpacks,"),
                    source: "waited for its lock".into(),
                });
            }
            tokio::time::sleep(LOCK_POLL).await;
        }
    }

    /// Removes work in progress that nobody works on.
    fn sweep(&self) -> Result<()> {
        let tmp = self.root.join("tmp");
        let mut left = BTreeMap::<_, Vec<PathBuf>>::new();
        for entry in fs::read_dir(&tmp).map_err(io("list", &tmp))? {
            let path = entry.map_err(io("list", &tmp))?.path();
            let digest = path.file_stem().unwrap_or_default().to_owned();
            left.entry(digest).or_default().push(path);
        }
        for (digest, paths) in left {
            let Some(_held) = try_lock(&self.root.join("locks").join(digest))? else {
                continue;
            };
            for path in paths {
                if path.is_dir() {
                    remove_dir(&path)?;
                } else {
                    fs::remove_file(&path).map_err(io("remove", &path))?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn image(&self, digest: &Digest) -> PathBuf {
        self.root.join("images").join(digest.hex())
    }

    pub(super) fn tmp(&self, digest: &Digest) -> PathBuf {
        self.root.join("tmp").join(digest.hex())
    }
}

/// Unpacks layers below `tmp` in the order in which they come; how many there were.
fn unpack_all(
    tmp: &Path,
    mut layers: tokio::sync::mpsc::Receiver<(Descriptor, PathBuf)>,
) -> Result<(usize, Totals)> {
    let mut unpack = Unpack::new(&tmp.join("content/rootfs"))?;
    let mut count = 0;
    while let Some((layer, file)) = layers.blocking_recv() {
        blob::read_layer(&file, &layer, |tar| unpack.layer(tar))?;
        tracing::debug!(layer = %layer.digest, "layer unpacked");
        count += 1;
    }
    Ok((count, unpack.finish()?))
}

async fn fetch_layer(
    source: &Source,
    layer: Descriptor,
    file: PathBuf,
) -> Result<(Descriptor, PathBuf)> {
    let file = source.layer(&layer, file).await?;
    Ok((layer, file))
}

/// The image that `digest` names: itself, or the one for this platform when it is an index.
async fn resolve(source: &Source, digest: &Digest) -> Result<(Digest, Manifest)> {
    let mut digest = digest.clone();
    let chosen = match manifest::read_document(&source.manifest(&digest).await?)? {
        Document::Image(manifest) => return Ok((digest, manifest)),
        Document::Index(chosen) => chosen,
    };
    digest = chosen.digest;
    match manifest::read_document(&source.manifest(&digest).await?)? {
        Document::Image(manifest) => Ok((digest, manifest)),
        Document::Index(_) => Err(refused("its index", "it names another index")),
    }
}

/// A directory for work in progress, which goes away with this.
struct Work(PathBuf);

impl Work {
    async fn begin(dir: PathBuf) -> Result<Self> {
        blocking(move || {
            remove_dir(&dir)?;
            for part in ["blobs", "content/rootfs"] {
                let part = dir.join(part);
                fs::create_dir_all(&part).map_err(io("create", &part))?;
            }
            Ok(Self(dir))
        })
        .await
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Err(error) = remove_dir(&self.0) {
            tracing::warn!(dir = %self.0.display(), %error, "work on an image stays behind until the next start");
        }
    }
}

pub(super) fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(io("remove", dir)(e)),
        _ => Ok(()),
    }
}

pub(super) fn try_lock(path: &Path) -> Result<Option<File>> {
    let mut options = File::options();
    let file = options.create(true).truncate(false).write(true).open(path);
    let file = file.map_err(io("open", path))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => Err(io("lock", path)(e)),
    }
}

fn sync_dir(dir: &Path) -> Result<()> {
    let synced = File::open(dir).and_then(|d| d.sync_all());
    synced.map_err(io("flush", dir))
}
