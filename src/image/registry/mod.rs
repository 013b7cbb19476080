//! Pulling from a registry by digest (OCI distribution-spec 1.1, "Pull").
//!
//! Everything that a registry says is untrusted and bounded, and each step is tried again for a while ([`patience`]): documents
//! from the start, layers from where they broke off. [`auth`] says who we are; a request is built in [`request`].

mod auth;
mod patience;
mod request;
#[cfg(test)]
mod tests;

use std::io::SeekFrom;
use std::path::Path;
use std::time::Duration;

use reqwest::header::CONTENT_RANGE;
use reqwest::{Response, StatusCode};
use tokio::fs::File;
use tokio::io::{AsyncSeekExt, AsyncWriteExt, BufWriter};

use super::credentials::Credentials;
use super::error::io;
use super::manifest::Descriptor;
use super::{BUFFER, Digest, ImageError, MAX_DOCUMENT, Result, blob};
use auth::Auth;
pub(super) use patience::Patience;
use patience::{Retries, Trouble};

/// Longest time for one layer, all tries together.
const LAYER_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// A try that brought so many bytes of a layer does not count against the budget.
const PROGRESS: u64 = 1 << 20;

/// The two kinds of what is asked for, as paths have them.
const MANIFESTS: &str = "manifests";
const BLOBS: &str = "blobs";

/// One repository of one registry.
pub(super) struct Registry {
    http: reqwest::Client,
    auth: Auth,
    host: String,
    repository: String,
    image: String,
    patience: Patience,
}

impl Registry {
    pub(super) fn new(
        host: &str,
        repository: &str,
        image: String,
        credentials: &Credentials,
        patience: Patience,
    ) -> Result<Self> {
        Ok(Self {
            http: request::client(host, &patience)?,
            auth: Auth::new(host, repository, credentials),
            host: host.to_owned(),
            repository: repository.to_owned(),
            image,
            patience,
        })
    }

    pub(super) async fn manifest(&self, digest: &Digest) -> Result<Vec<u8>> {
        self.small(MANIFESTS, digest).await
    }

    pub(super) async fn config(&self, config: &Descriptor) -> Result<Vec<u8>> {
        self.small(BLOBS, &config.digest).await
    }

    /// Writes a layer to the new file `to`, `layer.size` bytes. Its digest is verified when it is unpacked.
    pub(super) async fn download(&self, layer: &Descriptor, to: &Path) -> Result<()> {
        tracing::debug!(image = self.image, layer = %layer.digest, bytes = layer.size, "layer download begins");
        let file = File::create_new(to).await.map_err(io("create", to))?;
        let mut partial = Partial {
            file: BufWriter::with_capacity(BUFFER, file),
            bytes: 0,
            to,
        };
        let all = self.resume(layer, &mut partial);
        let done = tokio::time::timeout(LAYER_TIMEOUT, all).await;
        done.unwrap_or_else(|late| Err(self.unavailable(late)))?;
        partial.file.flush().await.map_err(io("write", to))
    }

    async fn small(&self, kind: &str, digest: &Digest) -> Result<Vec<u8>> {
        let mut retries = Retries::new(&self.patience);
        loop {
            let trouble = match self.try_small(kind, digest).await {
                Ok(bytes) => {
                    blob::check_small(&bytes, digest, MAX_DOCUMENT)?;
                    return Ok(bytes);
                }
                Err(trouble) => trouble,
            };
            self.pause(&mut retries, trouble).await?;
        }
    }

    async fn try_small(&self, kind: &str, digest: &Digest) -> Result<Vec<u8>, Trouble> {
        let answer = self.get(kind, digest, 0).await?;
        request::body(answer, MAX_DOCUMENT + 1).await
    }

    async fn resume(&self, layer: &Descriptor, partial: &mut Partial<'_>) -> Result<()> {
        let mut retries = Retries::new(&self.patience);
        loop {
            let before = partial.bytes;
            let Err(trouble) = self.try_layer(layer, partial).await else {
                return Ok(());
            };
            if partial.bytes >= before + PROGRESS {
                retries = Retries::new(&self.patience);
            }
            tracing::debug!(image = self.image, layer = %layer.digest, bytes = partial.bytes, "layer download broke off");
            self.pause(&mut retries, trouble).await?;
        }
    }

    async fn try_layer(
        &self,
        layer: &Descriptor,
        partial: &mut Partial<'_>,
    ) -> Result<(), Trouble> {
        if partial.bytes == layer.size && layer.size > 0 {
            return Ok(());
        }
        let mut answer = self.get(BLOBS, &layer.digest, partial.bytes).await?;
        if !continues(&answer, partial.bytes) {
            partial.restart().await?;
        }
        while let Some(chunk) = answer.chunk().await.map_err(request::broken)? {
            if partial.bytes + chunk.len() as u64 > layer.size {
                return Err(Trouble::Final(mismatch(&layer.digest)));
            }
            let written = partial.file.write_all(&chunk).await;
            written.map_err(io("write", partial.to))?;
            partial.bytes += chunk.len() as u64;
        }
        if partial.bytes == layer.size {
            return Ok(());
        }
        let reason = format!(
            "the layer ended after {} of {} bytes",
            partial.bytes, layer.size
        );
        Err(Trouble::passing(reason))
    }

    async fn pause(&self, retries: &mut Retries, trouble: Trouble) -> Result<()> {
        match trouble {
            Trouble::Final(error) => Err(error),
            Trouble::Passing { source, after } => match retries.next(after) {
                Some(delay) => {
                    tracing::info!(image = self.image, error = %source, ?delay, "registry asked again");
                    tokio::time::sleep(delay).await;
                    Ok(())
                }
                None => Err(self.unavailable(source)),
            },
        }
    }

    fn unavailable(&self, source: impl Into<super::error::Source>) -> ImageError {
        ImageError::Unavailable {
            what: format!("registry {}", self.host),
            source: source.into(),
        }
    }
}

/// A layer on its way.
struct Partial<'a> {
    file: BufWriter<File>,
    bytes: u64,
    to: &'a Path,
}

impl Partial<'_> {
    async fn restart(&mut self) -> Result<()> {
        if self.bytes == 0 {
            return Ok(());
        }
        self.bytes = 0;
        let again = async {
            self.file.seek(SeekFrom::Start(0)).await?;
            self.file.get_ref().set_len(0).await
        };
        again.await.map_err(io("write", self.to))
    }
}

/// Whether an answer goes on where we stopped; else it is the whole blob again.
fn continues(answer: &Response, from: u64) -> bool {
    let range = answer.headers().get(CONTENT_RANGE);
    let start = range
        .and_then(|range| range.to_str().ok())
        .and_then(|range| {
            let (start, _) = range.strip_prefix("bytes ")?.split_once('-')?;
            start.parse::<u64>().ok()
        });
    answer.status() == StatusCode::PARTIAL_CONTENT && start == Some(from)
}

fn mismatch(digest: &Digest) -> ImageError {
    ImageError::DigestMismatch {
        what: "what the registry sent".to_owned(),
        expected: digest.clone(),
    }
}
