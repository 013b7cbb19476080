//! From an image directory on the node to a snapshot that everyone can fetch.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use tempfile::TempDir;

use super::error::io;
use super::manifest::{FileEntry, MAX_FILES, MAX_TOTAL_BYTES, Manifest, Meta};
use super::{Location, PARALLEL_FILES, Result, SnapshotError, blocking, check_id, codec};

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

/// Publishes the files of `image_dir` as snapshot `id`: data first, the manifest last and only if there is none.
///
/// The directory must hold only plain files, finished, that nobody changes meanwhile; it is left as it is. When this
/// returns `Ok` the snapshot is durable. On an error nothing is visible; objects that were already written are removed
/// as far as the store allows, and [`super::delete()`] removes the rest.
///
/// # Errors
/// `AlreadyExists` when a snapshot of this id is published (by whomever); `BadId`, `BadImage`, `TooLarge`; those of the store.
pub async fn publish(to: &Location, id: &str, image_dir: &Path, meta: Meta) -> Result<Published> {
    check_id(id)?;
    let dir = image_dir.to_owned();
    let files = blocking(move || image_files(&dir)).await?;
    refuse_published(to, id).await?;

    let spool = Arc::new(spool_for(to, image_dir).await?);
    let attempt = format!("{:016x}", rand::random::<u64>());
    let sent = files.into_iter().map(|file| {
        let entry_name = format!("{attempt}.{}.zst", file.name);
        send(to, id, image_dir.join(&file.name), file, entry_name, &spool)
    });
    let sent: Result<Vec<FileEntry>> = futures::stream::iter(sent)
        .buffer_unordered(PARALLEL_FILES)
        .try_collect()
        .await;
    let done = match sent {
        Ok(entries) => seal(to, id, Manifest::new(id, meta, entries)).await,
        Err(e) => Err(e),
    };
    if done.is_err() {
        discard(to, id, &attempt).await;
    }
    done
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

/// Saves a second publisher the work; the conditional write of the manifest is what decides.
async fn refuse_published(to: &Location, id: &str) -> Result<()> {
    match to.store.get(&to.manifest_of(id)).await {
        Ok(_) => Err(already(to, id)),
        Err(SnapshotError::NoObject { .. }) => Ok(()),
        Err(e) => Err(e),
    }
}

/// Compresses one file and stores it.
async fn send(
    to: &Location,
    id: &str,
    from: PathBuf,
    file: ImageFile,
    object: String,
    spool: &Arc<TempDir>,
) -> Result<FileEntry> {
    let spooled = spool.path().join(&object);
    // Holds the spool until the thread is done, also when the caller goes away meanwhile.
    let (hold, target) = (spool.clone(), spooled.clone());
    let done = blocking(move || {
        let done = codec::compress(&from, &target).map_err(io("compress", &from))?;
        drop(hold);
        if done.bytes != file.bytes {
            return Err(SnapshotError::BadImage {
                path: from,
                reason: "it changed while it was read".to_owned(),
            });
        }
        Ok((file, done))
    });
    let (file, done) = done.await?;
    let key = format!("{}{object}", to.keys_of(id));
    to.store.put_file(&key, &spooled).await?;
    // The spool is as large as what is on its way, not as all files. A store may have moved the file away.
    drop(tokio::fs::remove_file(&spooled).await);
    Ok(FileEntry {
        name: file.name,
        object,
        bytes: done.bytes,
        stored_bytes: done.stored_bytes,
        sha256: done.sha256,
    })
}

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

/// Removes this attempt's objects; another attempt's stay.
async fn discard(to: &Location, id: &str, attempt: &str) {
    let keys = to.keys_of(id);
    let ours = match to.store.list(&keys, None).await {
        Ok(page) => page.keys,
        Err(error) => {
            tracing::warn!(id, %error, "objects of a failed publication stay behind");
            return;
        }
    };
    // Its manifest may have been written although the store did not say so: then all of it must stay.
    let Err(SnapshotError::NoObject { .. }) = to.store.get(&to.manifest_of(id)).await else {
        return discard_unreferenced(to, id, attempt, ours).await;
    };
    for key in ours.iter().filter(|k| is_of(k, &keys, attempt)) {
        if let Err(error) = to.store.delete(key).await {
            tracing::warn!(key, %error, "an object of a failed publication stays behind");
        }
    }
}

/// The same where a manifest is there: only if it can be read and does not name this attempt's objects.
async fn discard_unreferenced(to: &Location, id: &str, attempt: &str, keys: Vec<String>) {
    let Ok(manifest) = super::read_manifest(to, id).await else {
        return;
    };
    let own = format!("{attempt}.");
    if manifest.files.iter().any(|f| f.object.starts_with(&own)) {
        return;
    }
    for key in keys.iter().filter(|k| is_of(k, &to.keys_of(id), attempt)) {
        if let Err(error) = to.store.delete(key).await {
            tracing::warn!(key, %error, "an object of a lost publication stays behind");
        }
    }
}

fn is_of(key: &str, prefix: &str, attempt: &str) -> bool {
    key.strip_prefix(prefix)
        .is_some_and(|name| name.starts_with(attempt))
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
