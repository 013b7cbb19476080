//! The two places that images come from, behind one face.

use std::io::ErrorKind;
use std::path::PathBuf;

use super::credentials::Credentials;
use super::error::io;
use super::manifest::Descriptor;
use super::registry::{Patience, Registry};
use super::{Digest, ImageError, ImageRef, ImageSource, MAX_DOCUMENT, Result, blob, blocking};

/// An open source of one image.
pub(super) enum Source {
    Layout(Layout),
    Registry(Box<Registry>),
}

pub(super) struct Layout {
    dir: PathBuf,
    image: String,
}

impl Source {
    pub(super) fn open(
        image: &ImageRef,
        credentials: &Credentials,
        patience: &Patience,
    ) -> Result<Self> {
        match &image.source {
            ImageSource::Layout(dir) => Ok(Self::Layout(Layout {
                dir: dir.clone(),
                image: image.to_string(),
            })),
            ImageSource::Registry { host, repository } => {
                let (shown, patience) = (image.to_string(), patience.clone());
                let registry = Registry::new(host, repository, shown, credentials, patience);
                Ok(Self::Registry(Box::new(registry?)))
            }
        }
    }

    /// The bytes of a manifest or index.
    pub(super) async fn manifest(&self, digest: &Digest) -> Result<Vec<u8>> {
        match self {
            Self::Layout(layout) => layout.small(digest, MAX_DOCUMENT).await,
            Self::Registry(registry) => registry.manifest(digest).await,
        }
    }

    /// The bytes of a configuration.
    pub(super) async fn config(&self, config: &Descriptor) -> Result<Vec<u8>> {
        match self {
            Self::Layout(layout) => layout.small(&config.digest, MAX_DOCUMENT).await,
            Self::Registry(registry) => registry.config(config).await,
        }
    }

    /// A file with the layer's bytes: the new file `to` unless they are on this machine already. They are not verified yet.
    pub(super) async fn layer(&self, layer: &Descriptor, to: PathBuf) -> Result<PathBuf> {
        match self {
            Self::Layout(layout) => {
                let (path, lost) = (layout.blob(&layer.digest), layout.lost(&layer.digest));
                blocking(move || match blob::open_plain(&path) {
                    Err(e) if e.kind() == ErrorKind::NotFound => Err(lost),
                    Err(e) => Err(io("read", &path)(e)),
                    Ok(_) => Ok(path),
                })
                .await
            }
            Self::Registry(registry) => {
                registry.download(layer, &to).await?;
                Ok(to)
            }
        }
    }
}

impl Layout {
    fn blob(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }

    fn lost(&self, digest: &Digest) -> ImageError {
        let what = if self.dir.join("oci-layout").exists() {
            format!("blob {digest}")
        } else {
            format!("the OCI layout {}", self.dir.display())
        };
        ImageError::NotFound {
            image: self.image.clone(),
            what,
        }
    }

    async fn small(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let (path, digest, lost) = (self.blob(digest), digest.clone(), self.lost(digest));
        blocking(move || match blob::read_small(&path, &digest, limit) {
            Err(ImageError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Err(lost),
            read => read,
        })
        .await
    }
}
