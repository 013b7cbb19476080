//! Snapshots: a manifest and its data in an object store, published last and verified when fetched.
//!
//! Here live the format ([`manifest`]), the stores it is kept in ([`objects`], with one implementation for a directory
//! and one for any S3 server), [`publish`], [`fetch`] and [`delete`], and the node's own uncompressed copies
//! ([`LocalCache`]). What a snapshot is *of*, when it is taken and which one an actor points at is decided elsewhere:
//! this room knows nothing of phases, workers, records or sandboxes. The node agent publishes and fetches; the engine
//! deletes what is superseded and reads manifests.
//!
//! Layout below a location (`s3://bucket/prefix/` or `file:///dir/`), for a snapshot `ID`:
//! - `ID/manifest.json`, written last and only if there is none: a snapshot exists exactly when its manifest does;
//! - `ID/ATTEMPT.NAME.zst` for the files of the image directory, each whole or, of a file of [`pages`], what is new in it;
//! - `ID/ATTEMPT.NAME.map` for each such file: what it is made of, which may be objects of snapshots before;
//! - `ID/held-by.OTHER.ATTEMPT` for every snapshot that lies elsewhere and is made of objects of this one ([`holds`]).
//!
//! Objects carry the attempt in their names, so that two publishers of one id cannot touch each other's. Those that
//! another snapshot is made of outlive the manifest ([`delete()`]).

mod cache;
mod codec;
mod delete;
mod endpoint;
mod error;
mod fetch;
mod file_store;
mod holds;
mod location;
pub mod manifest;
pub mod objects;
mod pages;
mod publish;
mod s3_store;
mod sum;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
#[path = "../../e2e/parts/versitygw.rs"]
pub(crate) mod versitygw;
#[cfg(test)]
mod weed;

#[cfg(test)]
use crate::server;
pub use cache::{LocalCache, Pin};
pub use delete::delete;
pub use error::SnapshotError;
pub use fetch::{fetch, read_manifest};
pub use file_store::FileStore;
pub use location::{Location, S3Config, S3Credentials, Stores};
pub use manifest::{ActorIdentity, Cpu, FileSum, Manifest, Meta, RuntimeIdentity};
pub use objects::ObjectStore;
pub use publish::{Published, Reference, publish};
pub use s3_store::S3Store;

/// Bytes moved at a time between disk, hash, compressor and network.
const BUFFER: usize = 1 << 20;

/// Files of one snapshot that are compressed, sent or fetched at the same time.
const PARALLEL_FILES: usize = 2;

/// Name of the object whose existence makes a snapshot visible.
const MANIFEST_NAME: &str = "manifest.json";

/// Longest accepted snapshot id, in bytes.
const MAX_ID: usize = 128;

/// A result of this room.
pub type Result<T, E = SnapshotError> = std::result::Result<T, E>;

/// Refuses an id that could not be one path segment and one object key segment everywhere.
fn check_id(id: &str) -> Result<()> {
    if is_plain_name(id) && id.len() <= MAX_ID {
        Ok(())
    } else {
        Err(SnapshotError::BadId { id: id.to_owned() })
    }
}

/// Letters, digits, `.`, `_` and `-`, not empty and not starting with a dot.
fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Runs `work` where blocking is allowed; a panic in it becomes [`SnapshotError::Bug`].
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(join) => Err(SnapshotError::Bug {
            what: format!("a snapshot worker thread ended early: {join}"),
        }),
    }
}
