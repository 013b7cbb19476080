//! From a published snapshot to an image directory on the node.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use tempfile::TempDir;

use super::codec::{self, ExpandError};
use super::error::io;
use super::manifest::{FileEntry, MAX_MANIFEST_BYTES, Manifest};
use super::objects::get_small;
use super::{Location, MANIFEST_NAME, PARALLEL_FILES, Result, SnapshotError, blocking, check_id};

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

/// Fetches snapshot `id` into the new directory `into`, which appears complete and verified or not at all.
///
/// `into`'s parent must exist. The files are not flushed to disk: a node copy is verified again after a restart.
///
/// # Errors
/// `NotFound`; `Damaged`, naming the file, when any byte is not the published one; `Unsupported`; `AlreadyExists` when
/// `into` is there; those of the store.
pub async fn fetch(from: &Location, id: &str, into: &Path) -> Result<Manifest> {
    let manifest = read_manifest(from, id).await?;
    let parent = into.parent().unwrap_or(Path::new("/")).to_owned();
    let staging = blocking(move || {
        let made = tempfile::Builder::new()
            .prefix(".fetch-")
            .tempdir_in(&parent);
        made.map_err(io("create a directory in", &parent))
    });
    let staging = Arc::new(staging.await?);
    // The largest first, so that it does not run alone at the end.
    let mut files = manifest.files.clone();
    files.sort_by_key(|f| std::cmp::Reverse(f.bytes));
    let fetched = files
        .into_iter()
        .map(|file| receive(from, id, file, staging.clone()));
    futures::stream::iter(fetched)
        .buffer_unordered(PARALLEL_FILES)
        .try_collect::<()>()
        .await?;
    let into = into.to_owned();
    blocking(move || appear(&staging, &into)).await?;
    Ok(manifest)
}

/// Fetches one file. `staging` lives until the thread that writes in it is done, also when the caller goes away.
async fn receive(from: &Location, id: &str, file: FileEntry, staging: Arc<TempDir>) -> Result<()> {
    let key = format!("{}{}", from.keys_of(id), file.object);
    let damaged = {
        let (id, what) = (id.to_owned(), file.name.clone());
        move |reason| SnapshotError::Damaged { id, what, reason }
    };
    let body = match from.store.get(&key).await {
        Ok(body) => body,
        Err(SnapshotError::NoObject { key, .. }) => {
            return Err(damaged(format!("its object {key} is missing")));
        }
        Err(e) => return Err(e),
    };
    let store = from.store.name();
    blocking(move || {
        let target = staging.path().join(&file.name);
        codec::expand(body, &target, &file).map_err(|e| match e {
            ExpandError::Damaged(reason) => damaged(reason),
            ExpandError::Target(source) => io("write", &target)(source),
            ExpandError::Source(source) => SnapshotError::Unavailable {
                store,
                operation: format!("reading {key}"),
                source: source.into(),
            },
        })
    })
    .await
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
