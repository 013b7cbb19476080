//! What can go wrong with a snapshot, by what the caller can do about it.

use std::path::{Path, PathBuf};

/// The cause of an error, kept for the log.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why an operation on a snapshot, a store or the cache failed.
///
/// *Retry*: `Unavailable`, `Io`. *The user's input*: `BadLocation`, `BadEndpoint`, `BadCa`, `BadId`, `BadImage`, `TooLarge`. *Not allowed*:
/// `NotAllowed`. *Gone*: `NotFound`, `NoObject`. *The data cannot be used, now or later*: `Damaged`, `Unsupported`.
/// *Lost a race, or a repeated call*: `AlreadyExists`. *Bug*: `Bug`.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The location of snapshots is not one that we can use.
    #[error("snapshot location {location:?} cannot be used: {reason}")]
    BadLocation {
        /// What was given.
        location: String,
        /// What to do about it.
        reason: String,
    },
    /// The S3 server's URL is not one that we can use.
    #[error("S3 endpoint {endpoint:?} cannot be used: {reason}")]
    BadEndpoint {
        /// What was given.
        endpoint: String,
        /// What to do about it.
        reason: String,
    },
    /// The certificates to trust for S3 cannot be used.
    #[error(
        "the certificates to trust for S3 cannot be used: {reason}; write a file of CA certificates in PEM"
    )]
    BadCa {
        /// What is wrong with them.
        reason: String,
    },
    /// The id is not made of letters, digits, `.`, `_`, `-`.
    #[error(
        "snapshot id {id:?} must be 1 to 128 letters, digits, '.', '_' or '-', and not start with '.'"
    )]
    BadId {
        /// What was given.
        id: String,
    },
    /// The directory to publish or adopt is not one of plain files with plain names.
    #[error("{} is not a snapshot image: {reason}", path.display())]
    BadImage {
        /// The directory or the file in it.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A cap of the format is exceeded.
    #[error("{what} is larger than the {limit} bytes that a snapshot may have there")]
    TooLarge {
        /// What is too large.
        what: String,
        /// The cap in bytes.
        limit: u64,
    },
    /// There is no such published snapshot.
    #[error("snapshot {id} not found in {store}")]
    NotFound {
        /// The id asked for.
        id: String,
        /// Where it was looked for.
        store: String,
    },
    /// A store has no object of this key.
    #[error("no object {key} in {store}")]
    NoObject {
        /// The key.
        key: String,
        /// The store.
        store: String,
    },
    /// A snapshot of that id is there already (published, cached, or a directory in the way).
    #[error("{what} exists already")]
    AlreadyExists {
        /// What is in the way.
        what: String,
    },
    /// Bytes are not those that were published.
    #[error("{what} of snapshot {id} is damaged ({reason}); it is refused")]
    Damaged {
        /// The snapshot.
        id: String,
        /// The file in it, or `manifest.json`.
        what: String,
        /// How it differs.
        reason: String,
    },
    /// The manifest was written in a format that this build does not read.
    #[error(
        "snapshot {id} has format version {version}, this build reads version {supported}; use the build that wrote it"
    )]
    Unsupported {
        /// The snapshot.
        id: String,
        /// The version found.
        version: u64,
        /// The version that this build reads.
        supported: u64,
    },
    /// The store refuses our credentials or this operation.
    #[error("{store} does not allow {operation}; check the credentials and the bucket's policy")]
    NotAllowed {
        /// The store.
        store: String,
        /// What was tried.
        operation: String,
        /// What the store said.
        #[source]
        source: Source,
    },
    /// The store did not answer, or answered that it cannot now.
    #[error("{store} is not available for {operation}; try again")]
    Unavailable {
        /// The store.
        store: String,
        /// What was tried.
        operation: String,
        /// What happened.
        #[source]
        source: Source,
    },
    /// A local file operation failed.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// The verb.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// Something that cannot happen.
    #[error("internal error: {what}")]
    Bug {
        /// What happened.
        what: String,
    },
}

/// Names the operation and path of an I/O error: `read(path).map_err(io("read", path))`.
pub(super) fn io<'a>(
    operation: &'static str,
    path: &'a Path,
) -> impl FnOnce(std::io::Error) -> SnapshotError + 'a {
    move |source| SnapshotError::Io {
        operation,
        path: path.to_owned(),
        source,
    }
}
