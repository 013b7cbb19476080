//! OCI images: fetched by digest, unpacked once per node, shared read-only.
//!
//! [`ImageStore::ensure`] turns an [`ImageRef`] into a directory that holds the image's files; [`layout::write()`] makes an
//! image from a directory. An image is named by digest always, so what is unpacked never changes and needs no registry
//! again. What runs in it, with which arguments and mounts, is decided elsewhere: this room knows nothing of templates,
//! actors or sandboxes. The node agent calls it; the command line calls [`layout`].
//!
//! Who we are to registries is told by the caller ([`Credentials`]); what stays on the disk is `cache`'s choice.
//!
//! Nothing in an image is trusted: blobs are held against their digests, an entry can touch nothing outside the directory
//! it is unpacked in (`unpack`), and sizes are capped.

mod blob;
mod cache;
mod credentials;
mod error;
pub mod layout;
mod manifest;
mod reference;
mod registry;
mod source;
mod store;
mod unpack;
mod user;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use credentials::Credentials;
pub use error::ImageError;
pub use manifest::ImageConfig;
pub use reference::{Digest, ImageRef, ImageSource};
pub use store::{ImageStore, UnpackedImage};
pub use user::ResolvedUser;

/// Cap on a manifest, an index or a configuration, in bytes.
const MAX_DOCUMENT: u64 = 4 << 20;

/// Cap on all layers of an image together, compressed and again uncompressed, in bytes.
const MAX_IMAGE_BYTES: u64 = 32 << 30;

/// Cap on the entries of all layers of an image together.
const MAX_IMAGE_FILES: u64 = 1_000_000;

/// Cap on the layers of an image.
const MAX_LAYERS: usize = 512;

/// Bytes moved at a time between disk, hash and decompressor.
const BUFFER: usize = 1 << 20;

/// A result of this room.
pub type Result<T, E = ImageError> = std::result::Result<T, E>;

/// Runs `work` where blocking is allowed; a panic in it becomes [`ImageError::Bug`].
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(join) => Err(ImageError::Bug {
            what: format!("an image worker thread ended early: {join}"),
        }),
    }
}
