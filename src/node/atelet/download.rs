//! Fetching a file by HTTPS, within bounds.

use crate::telemetry::chain;
use futures::StreamExt;
use reqwest::{Client, ClientBuilder};
use sha2::{Digest, Sha256};
use std::path::Path;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::sync::OnceCell;
use tokio::time::timeout;

/// What a download may cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub bytes: u64,
    /// Until there is a connection.
    pub connect: Duration,
    /// Without a byte coming.
    pub silence: Duration,
    /// All of it.
    pub total: Duration,
}

/// Fetches files by HTTPS. Trusts the system's certificates, or those that `SSL_CERT_FILE` names.
pub(super) struct Downloader {
    limits: Limits,
    client: OnceCell<Client>,
}

impl Downloader {
    pub fn new(limits: Limits) -> Self {
        Downloader {
            limits,
            client: OnceCell::new(),
        }
    }

    /// Fetches `url` into the file `to`; its SHA-256 in hex. After an error there may be part of it.
    pub async fn fetch(&self, url: &str, to: &Path) -> Result<String, String> {
        let limit = self.limits.total;
        match timeout(limit, self.transfer(url, to)).await {
            Ok(fetched) => fetched,
            Err(_) => Err(format!("not fetched within {limit:?}")),
        }
    }

    async fn transfer(&self, url: &str, to: &Path) -> Result<String, String> {
        let client = self.client.get_or_try_init(|| async {
            let built = builder(&self.limits).build();
            built.map_err(|e| chain(&e))
        });
        let failed = |e: reqwest::Error| chain(&e.without_url());
        let answer = client.await?.get(url).send().await.map_err(failed)?;
        let mut body = answer.error_for_status().map_err(failed)?.bytes_stream();
        let unwritten = |e: std::io::Error| format!("cannot write {}: {e}", to.display());
        let mut file = tokio::fs::File::create(to).await.map_err(unwritten)?;
        let (mut hash, mut bytes) = (Sha256::new(), 0u64);
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(failed)?;
            bytes += chunk.len() as u64;
            if bytes > self.limits.bytes {
                return Err(format!("it is over {} bytes", self.limits.bytes));
            }
            hash.update(&chunk);
            file.write_all(&chunk).await.map_err(unwritten)?;
        }
        file.sync_all().await.map_err(unwritten)?;
        Ok(hex::encode(hash.finalize()))
    }
}

/// No step of the way is plain HTTP, redirects included.
fn builder(limits: &Limits) -> ClientBuilder {
    // Fails when a provider is set already, which is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
    Client::builder()
        .https_only(true)
        .connect_timeout(limits.connect)
        .read_timeout(limits.silence)
}

#[cfg(test)]
impl Downloader {
    /// One that trusts `ca` (PEM) too.
    pub fn trusting(ca: &str, limits: Limits) -> Self {
        let ca = reqwest::Certificate::from_pem(ca.as_bytes()).unwrap();
        let client = builder(&limits).tls_certs_merge([ca]).build().unwrap();
        Downloader {
            limits,
            client: OnceCell::new_with(Some(client)),
        }
    }
}
