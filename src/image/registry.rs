//! Pulling from a registry by digest (OCI distribution-spec), without credentials.

use std::path::Path;
use std::time::Duration;

use futures::TryStreamExt;
use oci_client::Reference;
use oci_client::client::{Client, ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::OciDescriptor;
use oci_client::secrets::RegistryAuth;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::error::io;
use super::manifest::Descriptor;
use super::{BUFFER, Digest, ImageError, MAX_DOCUMENT, Result, blob};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence while bytes are expected.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest time for one manifest or configuration.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest time for one layer.
const LAYER_TIMEOUT: Duration = Duration::from_secs(30 * 60);

const MANIFEST_TYPES: &[&str] = &[
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];

/// One repository of one registry.
pub(super) struct Registry {
    client: Client,
    host: String,
    repository: String,
    image: String,
}

impl Registry {
    pub(super) fn new(host: &str, repository: &str, image: String) -> Result<Self> {
        // Fails when a provider is set already, which is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
        let protocol = if is_local(host) {
            ClientProtocol::Http
        } else {
            ClientProtocol::Https
        };
        let config = ClientConfig {
            protocol,
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            ..ClientConfig::default()
        };
        Ok(Self {
            client: Client::new(config),
            host: host.to_owned(),
            repository: repository.to_owned(),
            image,
        })
    }

    fn reference(&self, digest: &Digest) -> Reference {
        let (host, repository) = (self.host.clone(), self.repository.clone());
        Reference::with_digest(host, repository, digest.to_string())
    }

    pub(super) async fn manifest(&self, digest: &Digest) -> Result<Vec<u8>> {
        let reference = self.reference(digest);
        let auth = RegistryAuth::Anonymous;
        let pull = self
            .client
            .pull_manifest_raw(&reference, &auth, MANIFEST_TYPES);
        let (bytes, _) = self
            .in_time(DOCUMENT_TIMEOUT, pull)
            .await?
            .map_err(|e| self.failed(digest, e))?;
        blob::check_small(&bytes, digest, MAX_DOCUMENT)?;
        Ok(bytes.to_vec())
    }

    pub(super) async fn config(&self, config: &Descriptor) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let pull = self.stream(config, MAX_DOCUMENT, &mut bytes, Path::new("memory"));
        self.in_time(DOCUMENT_TIMEOUT, pull).await??;
        blob::check_small(&bytes, &config.digest, MAX_DOCUMENT)?;
        Ok(bytes)
    }

    /// Writes a layer to the new file `to`. Its digest is verified on the way and again when it is unpacked.
    pub(super) async fn download(&self, layer: &Descriptor, to: &Path) -> Result<()> {
        tracing::debug!(image = self.image, layer = %layer.digest, bytes = layer.size, "layer download begins");
        let file = tokio::fs::File::create_new(to).await;
        let file = file.map_err(io("create", to))?;
        let mut file = tokio::io::BufWriter::with_capacity(BUFFER, file);
        let pull = self.stream(layer, layer.size, &mut file, to);
        self.in_time(LAYER_TIMEOUT, pull).await??;
        file.flush().await.map_err(io("write", to))
    }

    /// Writes a blob's bytes, at most `limit` of them, to `file`, which is `to` in errors.
    async fn stream(
        &self,
        blob: &Descriptor,
        limit: u64,
        file: &mut (dyn AsyncWrite + Send + Unpin),
        to: &Path,
    ) -> Result<()> {
        let reference = self.reference(&blob.digest);
        let auth = RegistryAuth::Anonymous;
        self.client.store_auth_if_needed(&self.host, &auth).await;
        let wanted = OciDescriptor {
            media_type: blob.media_type.clone(),
            digest: blob.digest.to_string(),
            size: i64::try_from(blob.size).unwrap_or(i64::MAX),
            ..OciDescriptor::default()
        };
        let answer = self.client.pull_blob_stream(&reference, &wanted).await;
        let mut stream = answer.map_err(|e| self.failed(&blob.digest, e))?.stream;
        let mut left = limit;
        loop {
            let chunk = stream.try_next().await;
            let Some(chunk) = chunk.map_err(|e| self.broken(blob, e))? else {
                return Ok(());
            };
            left = left
                .checked_sub(chunk.len() as u64)
                .ok_or_else(|| mismatch(&blob.digest))?;
            file.write_all(&chunk).await.map_err(io("write", to))?;
        }
    }

    async fn in_time<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Result<T> {
        tokio::time::timeout(limit, work)
            .await
            .map_err(|e| ImageError::Unavailable {
                what: format!("registry {}", self.host),
                source: e.into(),
            })
    }

    /// An error in the middle of a blob: of the digest (the client computes it too), or of the connection.
    fn broken(&self, blob: &Descriptor, error: std::io::Error) -> ImageError {
        let digest = error
            .get_ref()
            .is_some_and(|e| e.is::<oci_client::errors::DigestError>());
        if digest {
            mismatch(&blob.digest)
        } else {
            self.unavailable(error)
        }
    }

    fn failed(&self, digest: &Digest, error: OciDistributionError) -> ImageError {
        use OciDistributionError as E;
        let gone = |code: &OciErrorCode| {
            matches!(
                code,
                OciErrorCode::BlobUnknown
                    | OciErrorCode::ManifestBlobUnknown
                    | OciErrorCode::ManifestUnknown
                    | OciErrorCode::NameUnknown
                    | OciErrorCode::NotFound
            )
        };
        let denied =
            |code: &OciErrorCode| matches!(code, OciErrorCode::Unauthorized | OciErrorCode::Denied);
        match &error {
            E::DigestError(_) => return mismatch(digest),
            E::ImageManifestNotFoundError(_) | E::ServerError { code: 404, .. } => {}
            E::RegistryError { envelope, .. } if envelope.errors.iter().any(|e| gone(&e.code)) => {}
            E::RegistryError { envelope, .. }
                if envelope.errors.iter().any(|e| denied(&e.code)) =>
            {
                return self.denied(error);
            }
            E::AuthenticationFailure(_)
            | E::UnauthorizedError { .. }
            | E::ServerError {
                code: 401 | 403, ..
            } => return self.denied(error),
            _ => return self.unavailable(error),
        }
        ImageError::NotFound {
            image: self.image.clone(),
            what: format!("blob {digest}"),
        }
    }

    fn denied(&self, source: OciDistributionError) -> ImageError {
        ImageError::NotAllowed {
            registry: self.host.clone(),
            image: self.image.clone(),
            source: source.into(),
        }
    }

    fn unavailable(&self, source: impl std::error::Error + Send + Sync + 'static) -> ImageError {
        ImageError::Unavailable {
            what: format!("registry {}", self.host),
            source: source.into(),
        }
    }
}

fn mismatch(digest: &Digest) -> ImageError {
    ImageError::DigestMismatch {
        what: "what the registry sent".to_owned(),
        expected: digest.clone(),
    }
}

/// Whether `host` (with a port or without) is this machine, where plain HTTP is as good as TLS.
fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(six) => six.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost"
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::is_local;

    #[test]
    fn only_this_machine_is_local() {
        for local in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:5000",
            "127.9.9.9",
            "[::1]:5000",
        ] {
            assert!(is_local(local), "{local}");
        }
        for far in [
            "localhost.example.com",
            "10.0.0.1:5000",
            "docker.io",
            "128.0.0.1",
            "[::2]:1",
        ] {
            assert!(!is_local(far), "{far}");
        }
    }
}
