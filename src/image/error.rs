//! What can go wrong with an image, by what the caller can do about it.

use std::path::{Path, PathBuf};

use super::Digest;

/// The cause of an error, kept for the log.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why an image cannot be had.
///
/// *Retry*: `Unavailable`, `Io`. *The user's input*: `BadReference`, `BadUser`, `BadRoot`, `BadCredentials`. *Not allowed*: `NotAllowed`.
/// *Gone*: `NotFound`. *The image itself cannot be used, now or later*: `DigestMismatch`, `Refused`. *Bug*: `Bug`.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The reference is not one that we take.
    #[error("image {reference:?} cannot be used: {reason}")]
    BadReference {
        /// What was given.
        reference: String,
        /// What to do about it.
        reason: String,
    },
    /// There is no such image, or a part of it is missing.
    #[error("{what} of image {image} not found")]
    NotFound {
        /// The image.
        image: String,
        /// What of it: the layout, the manifest, a layer.
        what: String,
    },
    /// Bytes are not those that their digest names.
    #[error("{what} has other content than its digest {expected} says; it is refused")]
    DigestMismatch {
        /// What was read.
        what: String,
        /// The digest that it should have.
        expected: Digest,
    },
    /// The image holds something that we do not unpack.
    #[error("the image is refused: {what}: {reason}")]
    Refused {
        /// The entry, layer or document.
        what: String,
        /// Why.
        reason: String,
    },
    /// The user that the image or the template names is not in the image.
    #[error("user {user:?} cannot be used: {reason}")]
    BadUser {
        /// `user` or `user:group` as given.
        user: String,
        /// Why.
        reason: String,
    },
    /// A directory to make an image from holds something that an image cannot, or is no directory.
    #[error("{} cannot become an image: {reason}", path.display())]
    BadRoot {
        /// The directory or a file in it.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A docker configuration cannot be read.
    #[error("{what} cannot be used for pulling images: {reason}")]
    BadCredentials {
        /// The file or Secret.
        what: String,
        /// Why, without anything of its content.
        reason: String,
    },
    /// The registry does not let us have the image.
    #[error("{registry} does not allow pulling {image} {with}")]
    NotAllowed {
        /// The registry's host.
        registry: String,
        /// The image.
        image: String,
        /// With which credentials, or what to do to have some.
        with: String,
        /// What the registry said.
        #[source]
        source: Source,
    },
    /// The registry did not answer in time or says that it cannot now, or somebody else is unpacking for very long.
    #[error("{what} is not available; try again")]
    Unavailable {
        /// The registry or image.
        what: String,
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
pub(super) fn io<'a, E: Into<std::io::Error>>(
    operation: &'static str,
    path: &'a Path,
) -> impl FnOnce(E) -> ImageError + 'a {
    move |source| ImageError::Io {
        operation,
        path: path.to_owned(),
        source: source.into(),
    }
}

/// Says that the image is refused because of `what`.
pub(super) fn refused(what: impl Into<String>, reason: impl Into<String>) -> ImageError {
    ImageError::Refused {
        what: what.into(),
        reason: reason.into(),
    }
}
