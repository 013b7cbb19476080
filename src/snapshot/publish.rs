//! From an image directory on the node to a snapshot that everyone can fetch.

use std::path::Path;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use tempfile::TempDir;

use super::delete::{self, MAP_SUFFIX};
use super::error::io;
use super::fetch::find_map;
use super::holds::{self, Attempt};
use super::manifest::{
    DataObject, FileEntry, MAX_FILES, MAX_TOTAL_BYTES, Manifest, MapObject, Meta,
};
use super::pages::diff::{Known, diff};
use super::pages::{self, Map};
use super::{
    Location, PARALLEL_FILES, Pin, Result, SnapshotError, Stores, blocking, check_id, codec, sum,
};

/// A snapshot that is published.
#[derive(Clone, Debug)]
pub struct Published {
    /// Bytes that were stored, without the manifest.
    pub bytes: u64,
    /// What was published; its sums spare the cache another pass.
    pub manifest: Manifest,
}

/// One file of the directory that is being published.
struct ImageFile {
    name: String,
    bytes: u64,
}

/// A published snapshot: what is equal to it is not stored again.
#[derive(Debug)]
pub struct Reference {
    /// Where it lies.
    pub at: Location,
    /// Its id.
    pub id: String,
    /// Its copy on this node, without which only what is equal by the chunk is found.
    pub copy: Option<Pin>,
}

/// Publishes the files of `image_dir` as snapshot `id`: data first, the manifest last and only if there is none.
///
/// The directory must hold only plain files, finished, that nobody changes meanwhile; it is left as it is. When this
/// returns `Ok` the snapshot is durable. On an error nothing is visible; objects that were already written are removed
/// as far as the store allows, and [`super::delete()`] removes the rest.
///
/// Pages are not stored again that are in the first snapshot of `like` that can be read. One that lies where the new one will
/// must stay published until this returns: nobody may order its deletion before the new one counts. Others may go at any time.
///
/// # Errors
/// `AlreadyExists` when a snapshot of this id is published (by whomever); `BadId`, `BadImage`, `TooLarge`; those of the store.
pub async fn publish(
    stores: &Stores,
    to: &Location,
    id: &str,
    image_dir: &Path,
    meta: Meta,
    like: &[Reference],
) -> Result<Published> {
    check_id(id)?;
    let dir = image_dir.to_owned();
    let files = blocking(move || image_files(&dir)).await?;
    let (published, mut known) = tokio::join!(holds::is_published(to, id), known(to, like, &files));
    if published? {
        return Err(already(to, id));
    }
    let spool = Arc::new(spool_for(to, image_dir).await?);
    loop {
        let publication = Publication {
            stores,
            to,
            attempt: Attempt::new(id),
            image_dir,
            known: &known,
            spool: &spool,
        };
        let done = match publication.send_all(&files).await {
            Ok(Some(entries)) => seal(to, id, Manifest::new(id, meta.clone(), entries)).await,
            Ok(None) => {
                publication.discard().await;
                known.clear();
                continue;
            }
            Err(e) => Err(e),
        };
        if done.is_err() {
            publication.discard().await;
        }
        return done;
    }
}

/// The files of the first of `like` that can be read.
async fn known(to: &Location, like: &[Reference], files: &[ImageFile]) -> Vec<Known> {
    let mapped: Vec<_> = files.iter().filter(|f| pages::is_mapped(f.bytes)).collect();
    for Reference { at, id, copy } in like.iter().filter(|_| !mapped.is_empty()) {
        let uri = match at.name() == to.name() {
            true => String::new(),
            false => at.name(),
        };
        let mut known = Vec::new();
        for file in &mapped {
            match find_map(at, id, &file.name).await {
                // What others are made of is not handed on: a mark would be missing.
                Ok(Some((_, map))) if !uri.is_empty() && !map.bases.is_empty() => {}
                Ok(Some((entry, map))) => known.push(Known {
                    at: at.clone(),
                    uri: uri.clone(),
                    id: id.clone(),
                    entry,
                    map,
                    copy: copy.as_ref().map(|pin| pin.path().join(&file.name)),
                }),
                Ok(None) => {}
                Err(error) => tracing::warn!(id, %error, "nothing is published on top of it"),
            }
        }
        if !known.is_empty() {
            return known;
        }
    }
    Vec::new()
}

/// Writes the manifest, which makes the snapshot visible.
async fn seal(to: &Location, id: &str, manifest: Manifest) -> Result<Published> {
    let bytes = manifest.encode()?;
    if !to.store.put_if_absent(&to.manifest_of(id), bytes).await? {
        return Err(already(to, id));
    }
    tracing::debug!(
        id,
        bytes = manifest.total_bytes,
        stored = manifest.total_stored_bytes,
        "snapshot published"
    );
    Ok(Published {
        bytes: manifest.total_stored_bytes,
        manifest,
    })
}

fn already(to: &Location, id: &str) -> SnapshotError {
    SnapshotError::AlreadyExists {
        what: format!("snapshot {id} in {}", to.name()),
    }
}

/// One attempt to publish a snapshot.
struct Publication<'a> {
    stores: &'a Stores,
    to: &'a Location,
    attempt: Attempt,
    image_dir: &'a Path,
    known: &'a [Known],
    spool: &'a Arc<TempDir>,
}

impl Publication<'_> {
    /// Stores all files; `None` when what they would be made of has gone meanwhile.
    async fn send_all(&self, files: &[ImageFile]) -> Result<Option<Vec<FileEntry>>> {
        let sent: Vec<_> = files.iter().map(|file| self.send(file)).collect();
        let sent: Vec<Option<FileEntry>> = futures::stream::iter(sent)
            .buffer_unordered(PARALLEL_FILES)
            .try_collect()
            .await?;
        Ok(sent.into_iter().collect())
    }

    /// Compresses what is new of one file and stores it.
    async fn send(&self, file: &ImageFile) -> Result<Option<FileEntry>> {
        let (attempt, name) = (&self.attempt.name, &file.name);
        let object = format!("{attempt}.{name}.zst");
        let spooled = self.spool.path().join(&object);
        let known = self.known.iter().find(|known| known.entry.name == *name);
        let (bytes, hash, map, data) = self.make(file, known, &spooled).await?;
        let data = data.map(|(bytes, stored_bytes)| DataObject {
            object,
            bytes,
            stored_bytes,
        });
        let (map, ()) = tokio::try_join!(
            self.send_map(name, map, known),
            self.send_data(data.as_ref(), &spooled)
        )?;
        let Some(map) = map else { return Ok(None) };
        // The spool is as large as what is on its way, not as all files. A store may have moved the file away.
        drop(tokio::fs::remove_file(&spooled).await);
        Ok(Some(FileEntry {
            name: name.clone(),
            bytes,
            hash,
            data,
            map,
        }))
    }

    /// Writes what is new of a file into the spool. Returns its length, its hash, its map, and the lengths of what is new.
    async fn make(&self, file: &ImageFile, known: Option<&Known>, to: &Path) -> Result<Content> {
        let from = self.image_dir.join(&file.name);
        // Holds the spool until the thread is done, also when the caller goes away meanwhile.
        let (hold, to, known) = (self.spool.clone(), to.to_owned(), known.cloned());
        let expected = file.bytes;
        blocking(move || {
            let _hold = hold;
            let made = match pages::is_mapped(expected) {
                true => diff(&from, &to, known.as_ref()).map(|made| {
                    (
                        made.bytes,
                        sum::of(&made.map.chunks),
                        Some(made.map),
                        made.data,
                    )
                }),
                false => codec::compress(&from, &to).map(|done| {
                    (
                        done.bytes,
                        done.hash,
                        None,
                        Some((done.bytes, done.stored_bytes)),
                    )
                }),
            };
            let made: Content = made.map_err(io("compress", &from))?;
            if made.0 != expected {
                return Err(SnapshotError::BadImage {
                    path: from,
                    reason: "it changed while it was read".to_owned(),
                });
            }
            Ok(made)
        })
        .await
    }

    async fn send_data(&self, data: Option<&DataObject>, spooled: &Path) -> Result<()> {
        match data {
            Some(data) => {
                self.to
                    .store
                    .put_file(&self.key(&data.object), spooled)
                    .await
            }
            None => Ok(()),
        }
    }

    /// Stores the map, if there is one, and marks what it needs elsewhere; `None` when that has gone.
    async fn send_map(
        &self,
        name: &str,
        map: Option<Map>,
        known: Option<&Known>,
    ) -> Result<Option<Option<MapObject>>> {
        let Some(map) = map else {
            return Ok(Some(None));
        };
        // Before the marks: who cleans up after us reads it.
        let stored = self.put_map(name, &map).await?;
        let held = self.hold(&map, known).await?;
        Ok(held.then_some(Some(stored)))
    }

    async fn put_map(&self, name: &str, map: &Map) -> Result<MapObject> {
        let object = format!("{}.{name}{MAP_SUFFIX}", self.attempt.name);
        let bug = |e: std::io::Error| SnapshotError::Bug {
            what: format!("a map cannot be encoded: {e}"),
        };
        let stored = map.encode().map_err(bug)?;
        let entry = MapObject {
            stored_bytes: stored.len() as u64,
            hash: blake3::hash(&stored).to_hex().to_string(),
            object,
        };
        self.to
            .store
            .put_if_absent(&self.key(&entry.object), stored)
            .await?;
        Ok(entry)
    }

    /// Marks what the map needs elsewhere; `false` when that has gone. What the known snapshot needed already stays for as long as that does.
    async fn hold(&self, map: &Map, known: Option<&Known>) -> Result<bool> {
        for base in map.bases.iter().filter(|base| !base.uri.is_empty()) {
            let direct = known.filter(|known| known.id == base.id);
            let at = match direct {
                Some(known) => known.at.clone(),
                None => self.stores.open(&base.uri).await?,
            };
            holds::hold(&at, &base.id, &self.attempt).await?;
            if direct.is_some() && !holds::is_published(&at, &base.id).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn key(&self, object: &str) -> String {
        format!("{}{object}", self.to.keys_of(&self.attempt.id))
    }

    /// Removes this attempt's objects, unless a manifest names them, and others' stay.
    async fn discard(&self) {
        let id = &self.attempt.id;
        if let Err(error) = self.try_discard().await {
            tracing::warn!(id, %error, "objects of a failed publication stay behind");
        }
    }

    async fn try_discard(&self) -> Result<()> {
        let Attempt { id, name: own } = &self.attempt;
        let is_own = |name: &String| name.split_once('.').is_some_and(|(n, _)| n == own);
        // Its manifest may have been written although the store did not say so: then all of it must stay.
        match super::read_manifest(self.to, id).await {
            Ok(manifest) if manifest.files.iter().any(|f| f.objects().any(is_own)) => return Ok(()),
            Ok(_) | Err(SnapshotError::NotFound { .. }) => {}
            Err(e) => return Err(e),
        }
        let mut names = holds::names(self.to, id).await?;
        names.retain(is_own);
        delete::remove(self.stores, self.to, id, names).await
    }
}

/// Length and hash of a file, its map, and the lengths of its object.
type Content = (u64, String, Option<Map>, Option<(u64, u64)>);

/// A directory for compressed files: where the store wants it, else beside the image, on the same disk.
async fn spool_for(to: &Location, image_dir: &Path) -> Result<TempDir> {
    let (store, beside) = (to.store.clone(), image_dir.to_owned());
    blocking(move || {
        let base = match store.spool()? {
            Some(base) => base,
            None => beside.parent().unwrap_or(Path::new("/")).to_owned(),
        };
        let dir = tempfile::Builder::new()
            .prefix(".publish-")
            .tempdir_in(&base);
        dir.map_err(io("create a directory in", &base))
    })
    .await
}

/// The files of an image directory, which may hold nothing else.
fn image_files(dir: &Path) -> Result<Vec<ImageFile>> {
    let bad = |path: &Path, reason: &str| SnapshotError::BadImage {
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    let mut files = Vec::new();
    let mut total = 0u64;
    for entry in std::fs::read_dir(dir).map_err(io("list", dir))? {
        let entry = entry.map_err(io("list", dir))?;
        let path = entry.path();
        let meta = entry.metadata().map_err(io("read", &path))?;
        if !meta.is_file() {
            return Err(bad(&path, "only plain files are published"));
        }
        let name = entry.file_name().into_string().unwrap_or_default();
        if !super::is_plain_name(&name) {
            return Err(bad(
                &path,
                "its name has other characters than letters, digits, '.', '_', '-'",
            ));
        }
        total = total.saturating_add(meta.len());
        files.push(ImageFile {
            name,
            bytes: meta.len(),
        });
    }
    if files.is_empty() {
        return Err(bad(dir, "it is empty"));
    }
    if files.len() > MAX_FILES {
        return Err(bad(dir, "it has more than 256 files"));
    }
    if total > MAX_TOTAL_BYTES {
        return Err(SnapshotError::TooLarge {
            what: dir.display().to_string(),
            limit: MAX_TOTAL_BYTES,
        });
    }
    // The largest first, so that it does not run alone at the end.
    files.sort_by_key(|f| std::cmp::Reverse(f.bytes));
    Ok(files)
}
