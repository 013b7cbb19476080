//! From a published snapshot to an image directory on the node.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::{StreamExt, TryStreamExt};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use tempfile::TempDir;

use super::codec::{self, ExpandError};
use super::error::io;
use super::manifest::{DataObject, FileEntry, MAX_MANIFEST_BYTES, Manifest, MapObject};
use super::objects::{Body, get_small};
use super::pages::assemble::{self, Part, Tally};
use super::pages::{BASES, Base, MAX_MAP_BYTES, Map, PAGE};
use super::{
    LocalCache, Location, MANIFEST_NAME, PARALLEL_FILES, Result, SnapshotError, Stores, blocking,
    check_id,
};

/// Objects of one file that are fetched at the same time.
const PARALLEL_OBJECTS: usize = 4;

/// Reads and checks the manifest of snapshot `id`.
///
/// # Errors
/// `NotFound` when nothing is published under this id; `Damaged`, `Unsupported`; those of the store.
pub async fn read_manifest(from: &Location, id: &str) -> Result<Manifest> {
    check_id(id)?;
    match get_small(&*from.store, &from.manifest_of(id), MAX_MANIFEST_BYTES).await {
        Ok(bytes) => Manifest::decode(id, &bytes),
        Err(SnapshotError::NoObject { .. }) => Err(SnapshotError::NotFound {
            id: id.to_owned(),
            store: from.name(),
        }),
        Err(SnapshotError::TooLarge { limit, .. }) => Err(SnapshotError::Damaged {
            id: id.to_owned(),
            what: MANIFEST_NAME.to_owned(),
            reason: format!("over {limit} bytes"),
        }),
        Err(e) => Err(e),
    }
}

/// Reads and checks the map of a file of snapshot `id`, if it has one.
///
/// # Errors
/// `Damaged`, naming the file; those of the store.
pub(super) async fn read_map(from: &Location, id: &str, file: &FileEntry) -> Result<Option<Map>> {
    let Some(MapObject {
        object,
        stored_bytes,
        hash,
    }) = &file.map
    else {
        return Ok(None);
    };
    let damaged = |reason: String| SnapshotError::Damaged {
        id: id.to_owned(),
        what: file.name.clone(),
        reason: format!("its map {object}: {reason}"),
    };
    let key = format!("{}{object}", from.keys_of(id));
    let stored = match get_small(&*from.store, &key, MAX_MAP_BYTES).await {
        Ok(stored) => stored,
        Err(SnapshotError::NoObject { .. }) => return Err(damaged("it is missing".to_owned())),
        Err(SnapshotError::TooLarge { limit, .. }) => {
            return Err(damaged(format!("over {limit} bytes")));
        }
        Err(e) => return Err(e),
    };
    let same = blake3::hash(&stored).to_hex().as_str() == hash;
    if !same || stored.len() as u64 != *stored_bytes {
        return Err(damaged("its hash differs".to_owned()));
    }
    let map = Map::decode(&stored).map_err(damaged)?;
    map.check(file).map_err(damaged)?;
    Ok(Some(map))
}

/// Fetches the snapshot of `manifest` into the new directory `into`, which appears complete and verified or not at all. What is equal to
/// snapshots that `copies` has is taken from there.
///
/// `into`'s parent must exist. The files are not flushed to disk: a node copy is verified again after a restart.
///
/// # Errors
/// `Damaged`, naming the file, when any byte is not the published one; `AlreadyExists` when `into` is there; those of the store.
pub async fn fetch(
    stores: &Stores,
    copies: &LocalCache,
    from: &Location,
    manifest: &Manifest,
    into: &Path,
) -> Result<()> {
    let fetching = |copies| Fetching {
        stores,
        copies,
        from,
        manifest,
        copied: AtomicBool::new(false),
    };
    let first = fetching(Some(copies));
    match first.run(into).await {
        Err(error @ SnapshotError::Damaged { .. }) if first.copied.load(Ordering::Relaxed) => {
            tracing::error!(id = manifest.id, %error, "fetched again, without the copies on this node");
            fetching(None).run(into).await
        }
        done => done,
    }
}

/// A file that is put together.
#[derive(Clone)]
struct Making {
    file: Arc<File>,
    tally: Arc<Tally>,
}

struct Fetching<'a> {
    stores: &'a Stores,
    copies: Option<&'a LocalCache>,
    from: &'a Location,
    manifest: &'a Manifest,
    /// Something was taken from a copy.
    copied: AtomicBool,
}

impl Fetching<'_> {
    async fn run(&self, into: &Path) -> Result<()> {
        let parent = into.parent().unwrap_or(Path::new("/")).to_owned();
        let staging = blocking(move || {
            let made = tempfile::Builder::new()
                .prefix(".fetch-")
                .tempdir_in(&parent);
            made.map_err(io("create a directory in", &parent))
        });
        let staging = Arc::new(staging.await?);
        // The largest first, so that it does not run alone at the end.
        let mut files = self.manifest.files.clone();
        files.sort_by_key(|f| std::cmp::Reverse(f.bytes));
        let fetched: Vec<_> = files
            .into_iter()
            .map(|file| self.receive(file, staging.clone()))
            .collect();
        futures::stream::iter(fetched)
            .buffer_unordered(PARALLEL_FILES)
            .try_collect::<()>()
            .await?;
        let into = into.to_owned();
        blocking(move || appear(&staging, &into)).await
    }

    fn damaged(&self, file: &FileEntry, reason: String) -> SnapshotError {
        SnapshotError::Damaged {
            id: self.manifest.id.clone(),
            what: file.name.clone(),
            reason,
        }
    }

    /// Fetches one file. `staging` lives until the thread that writes in it is done, also when the caller goes away.
    async fn receive(&self, file: FileEntry, staging: Arc<TempDir>) -> Result<()> {
        let id = &self.manifest.id;
        let target = staging.path().join(&file.name);
        let Some(map) = read_map(self.from, id, &file).await? else {
            let whole = self.own(&file)?;
            let hash = file.hash.clone();
            return self
                .unpack(self.from, id, &file, whole, move |body, object| {
                    let _hold = staging;
                    codec::expand(body, &target, object, &hash)
                })
                .await;
        };
        let (hold, path, bytes) = (staging.clone(), target.clone(), file.bytes);
        let made = blocking(move || {
            let _hold = hold;
            let mut options = File::options();
            let made = options.read(true).write(true).create_new(true).open(&path);
            let sized = made.and_then(|made| made.set_len(bytes).map(|()| made));
            sized.map_err(io("create", &path))
        });
        let made = Arc::new(made.await?);
        let map = Arc::new(map);
        let (tally, chunks) = Tally::new(&map);
        let making = Making {
            file: made.clone(),
            tally: Arc::new(tally),
        };
        let parts: Vec<_> = assemble::parts(&map)
            .into_iter()
            .map(|(source, parts)| self.gather(&file, &map, source, parts, making.clone()))
            .collect();
        drop(making);
        let checked = map.clone();
        let differs = tokio::spawn(blocking(move || {
            let _hold = staging;
            assemble::verify(&made, &checked, &chunks).map_err(io("read", &target))
        }));
        futures::stream::iter(parts)
            .buffer_unordered(PARALLEL_OBJECTS)
            .try_collect::<()>()
            .await?;
        let differs = differs.await.map_err(|e| SnapshotError::Bug {
            what: format!("nobody verifies a file: {e}"),
        })?;
        match differs? {
            None => Ok(()),
            Some(at) => Err(self.damaged(&file, format!("it differs from byte {at} on"))),
        }
    }

    /// What the snapshot stores of a file itself.
    fn own(&self, file: &FileEntry) -> Result<DataObject> {
        let none = || self.damaged(file, "it has no data".to_owned());
        file.data.clone().ok_or_else(none)
    }

    /// Brings what a file needs of one source.
    async fn gather(
        &self,
        file: &FileEntry,
        map: &Map,
        source: u32,
        parts: Vec<Part>,
        to: Making,
    ) -> Result<()> {
        let base = source.checked_sub(BASES).map(|i| &map.bases[i as usize]);
        let Some(base) = base else {
            let own = self.own(file)?;
            let id = &self.manifest.id;
            return self
                .unpack(self.from, id, file, own, move |body, object| {
                    assemble::scatter(body, object, &parts, &to.file, &to.tally)
                })
                .await;
        };
        let elsewhere;
        let at = match base.uri.is_empty() {
            true => self.from,
            false => {
                elsewhere = self.stores.open(&base.uri).await?;
                &elsewhere
            }
        };
        if self.copy(at, base, file, &parts, &to).await {
            self.copied.store(true, Ordering::Relaxed);
            return Ok(());
        }
        let object = DataObject {
            object: base.object.clone(),
            bytes: base.pages.saturating_mul(PAGE as u64),
            stored_bytes: base.stored_bytes,
        };
        self.unpack(at, &base.id, file, object, move |body, object| {
            assemble::scatter(body, object, &parts, &to.file, &to.tally)
        })
        .await
    }

    /// Takes the pages from the copy of the base on this node, if there is one that has all of them.
    async fn copy(
        &self,
        at: &Location,
        base: &Base,
        file: &FileEntry,
        parts: &[Part],
        to: &Making,
    ) -> bool {
        let Some(copies) = self.copies else {
            return false;
        };
        let Ok(Some(pin)) = copies.get(&base.id).await else {
            return false;
        };
        let Ok(Some((entry, map))) = find_map(at, &base.id, &file.name).await else {
            return false;
        };
        if entry.data.is_none_or(|own| own.object != base.object) {
            return false;
        }
        let (parts, to, name) = (parts.to_vec(), to.clone(), file.name.clone());
        let copied = blocking(move || {
            let path = pin.path().join(name);
            let copied = File::open(&path)
                .and_then(|copy| assemble::copy(&copy, &map, &parts, &to.file, &to.tally));
            copied.map_err(io("copy", &path))
        });
        copied.await.is_ok_and(|all| all)
    }

    /// Gives an object of snapshot `owner` to `take`, on a thread that may block.
    async fn unpack(
        &self,
        at: &Location,
        owner: &str,
        file: &FileEntry,
        object: DataObject,
        take: impl FnOnce(Body, &DataObject) -> Result<(), ExpandError> + Send + 'static,
    ) -> Result<()> {
        let key = format!("{}{}", at.keys_of(owner), object.object);
        let store = at.store.name();
        let body = match at.store.get(&key).await {
            Ok(body) => body,
            Err(SnapshotError::NoObject { key, .. }) => {
                let missing = format!("object {key} in {store} is missing");
                return Err(self.damaged(file, missing));
            }
            Err(e) => return Err(e),
        };
        let name = file.name.clone();
        let done = blocking(move || Ok(take(body, &object))).await?;
        done.map_err(|e| match e {
            ExpandError::Damaged(reason) => {
                self.damaged(file, format!("object {key} in {store}: {reason}"))
            }
            ExpandError::Target(source) => io("write", Path::new(&name))(source),
            ExpandError::Source(source) => SnapshotError::Unavailable {
                store,
                operation: format!("reading {key}"),
                source: source.into(),
            },
        })
    }
}

/// A file of a published snapshot and its map, if it has one.
pub(super) async fn find_map(
    at: &Location,
    id: &str,
    name: &str,
) -> Result<Option<(FileEntry, Map)>> {
    let manifest = read_manifest(at, id).await?;
    let Some(entry) = manifest.files.into_iter().find(|f| f.name == name) else {
        return Ok(None);
    };
    let map = read_map(at, id, &entry).await?;
    Ok(map.map(|map| (entry, map)))
}

/// Gives the finished directory its name, never in place of another.
fn appear(staging: &TempDir, into: &PathBuf) -> Result<()> {
    let renamed = renameat2(
        AT_FDCWD,
        staging.path(),
        AT_FDCWD,
        into,
        RenameFlags::RENAME_NOREPLACE,
    );
    match renamed {
        Ok(()) => Ok(()),
        Err(nix::Error::EEXIST) => Err(SnapshotError::AlreadyExists {
            what: into.display().to_string(),
        }),
        Err(e) => Err(io("create", into)(e.into())),
    }
}
