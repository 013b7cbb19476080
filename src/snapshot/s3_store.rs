//! Objects in a bucket of any S3 server.

use crate::telemetry::chain;
use std::io::{self, BufRead, Read};
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::InterceptorContext;
use aws_sdk_s3::config::retry::{ClassifyRetry, RetryAction, RetryConfig};
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, ResponseChecksumValidation, SharedHttpClient,
};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{ByteStream, Length};
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use aws_smithy_http_client::tls;
use bytes::{Buf, Bytes};
use futures::{StreamExt, TryStreamExt};
use tokio::sync::mpsc;

use super::location::S3Config;
use super::objects::{Body, ObjectStore, PAGE_KEYS, Page, check_key};
use super::{BUFFER, Result, SnapshotError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// From the start of a request until the first byte of its answer; covers sending one part.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// One operation with its retries.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(180);
/// The same for what sends nothing large. A wake holds a worker meanwhile.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
const ASK_OPERATION_TIMEOUT: Duration = Duration::from_secs(30);
const ATTEMPTS: u32 = 4;
/// Larger files go up in parts.
const SINGLE_PUT: u64 = 32 << 20;
/// Smallest part; larger where a file would need more than [`MAX_PARTS`].
const PART: u64 = 16 << 20;
/// Parts that one upload may have (S3's own limit).
const MAX_PARTS: u64 = 10_000;
/// Parts of one file on their way at the same time.
const PARALLEL_PARTS: usize = 3;
/// Bytes of a download that are handed to its reader at once: each time it is woken up for them.
const HANDED_OVER: usize = 256 << 10;
/// How many times so much waits for it.
const AHEAD: usize = 16;
/// Region that is signed for when none is configured; servers other than AWS mostly ignore it.
const DEFAULT_REGION: &str = "us-east-1";

/// The region that environment or profile say.
fn said_region() -> RegionProviderChain {
    RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
        .or_else(ProfileFileRegionProvider::new())
        .or_else(Region::new(DEFAULT_REGION))
}

/// A bucket as an object store.
#[derive(Clone, Debug)]
pub struct S3Store {
    client: Client,
    bucket: String,
}

impl S3Store {
    /// The store in `bucket`. Credentials and region that `config` leaves out come from AWS's usual places (environment,
    /// profile, web identity, instance). Nothing is asked of the server yet.
    ///
    /// # Errors
    /// `BadEndpoint` or `BadCa`, wherever they come from.
    pub async fn new(bucket: &str, config: &S3Config) -> Result<Self> {
        config.check()?;
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .operation_timeout(OPERATION_TIMEOUT)
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http_client(config)?)
            .timeout_config(timeouts)
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS));
        loader = match (&config.region, &config.endpoint) {
            (Some(region), _) => loader.region(Region::new(region.clone())),
            // AWS's machines are not asked where they are for the sake of somebody else's server.
            (None, Some(_)) => loader.region(said_region()),
            (None, None) => loader,
        };
        if let Some(key) = &config.credentials {
            let token = key.session_token.clone();
            let (id, secret) = (key.access_key_id.clone(), key.secret_access_key.clone());
            loader = loader.credentials_provider(Credentials::new(
                id,
                secret,
                token,
                None,
                "configuration",
            ));
        }
        if let Some(endpoint) = &config.endpoint {
            loader = loader.endpoint_url(endpoint);
        }
        let shared = loader.load().await;
        let endpoint = shared.endpoint_url().map(str::to_owned);
        endpoint.as_deref().map_or(Ok(()), super::endpoint::check)?;
        let path_style = config.path_style || endpoint.is_some();
        // What is read is held against the manifest's own sums, which also say which file is damaged.
        let mut s3 = aws_sdk_s3::config::Builder::from(&shared)
            .force_path_style(path_style)
            .retry_classifier(Busy)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        // Again: one that was not looked at shall not take its place.
        s3.set_endpoint_url(endpoint);
        if shared.region().is_none() {
            s3 = s3.region(Region::new(DEFAULT_REGION));
        }
        Ok(Self {
            client: Client::from_conf(s3.build()),
            bucket: bucket.to_owned(),
        })
    }

    /// The client, for what this room does not do (a test makes its bucket).
    #[cfg(test)]
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// A failed call as one of our errors, by what its caller can do about it.
    fn failed<E>(&self, operation: &str, key: &str, error: SdkError<E>) -> SnapshotError
    where
        E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
    {
        let store = self.name();
        let status = error.raw_response().map(|r| r.status().as_u16());
        let code = error.code().unwrap_or_default().to_owned();
        let operation = format!("{operation} {key:?}");
        // The SDK's own message is "service error".
        let source = match (status, error.message()) {
            (Some(status), message) => format!("{status} {code}: {}", message.unwrap_or("")).into(),
            // The SDK's own way to show that adds the debug form of everything.
            (None, _) => chain(&error).into(),
        };
        match (status, code.as_str()) {
            (_, "NoSuchBucket") => SnapshotError::BadLocation {
                location: store,
                reason: "there is no such bucket; create it, or name another in spec.snapshotsConfig.location"
                    .to_owned(),
            },
            (Some(404), _) => SnapshotError::NoObject {
                key: key.to_owned(),
                store,
            },
            (Some(401 | 403), _) => SnapshotError::NotAllowed {
                store,
                operation,
                source,
            },
            _ => SnapshotError::Unavailable {
                store,
                operation,
                source,
            },
        }
    }

    async fn put_whole(&self, key: &str, file: &Path) -> Result<()> {
        let body = part(file, 0, None).await?;
        let request = self.client.put_object().bucket(&self.bucket).key(key);
        let sent = request.body(body).send().await;
        sent.map(drop).map_err(|e| self.failed("writing", key, e))
    }

    async fn put_parts(&self, key: &str, file: &Path, bytes: u64) -> Result<()> {
        let request = self.client.create_multipart_upload();
        let request = request.checksum_algorithm(ChecksumAlgorithm::Crc32);
        let begun = request.bucket(&self.bucket).key(key).send().await;
        let begun = begun.map_err(|e| self.failed("writing", key, e))?;
        let upload = begun.upload_id().unwrap_or_default();
        let done = self.send_parts(key, file, bytes, upload).await;
        if done.is_err() {
            let request = self.client.abort_multipart_upload();
            let request = request.bucket(&self.bucket).key(key).upload_id(upload);
            if let Err(error) = request.send().await {
                let error = chain(&error);
                tracing::warn!(key, error, "parts of a failed upload stay behind");
            }
        }
        done
    }

    async fn send_parts(&self, key: &str, file: &Path, bytes: u64, upload: &str) -> Result<()> {
        let size = PART.max(bytes.div_ceil(MAX_PARTS));
        let parts = (0..bytes.div_ceil(size)).map(|i| async move {
            let offset = i * size;
            let number = i as i32 + 1;
            let body = part(file, offset, Some(size.min(bytes - offset))).await?;
            let request = self.client.upload_part().bucket(&self.bucket).key(key);
            let request = request.checksum_algorithm(ChecksumAlgorithm::Crc32);
            let request = request.upload_id(upload).part_number(number).body(body);
            let sent = request.send().await;
            let sent = sent.map_err(|e| self.failed("writing", key, e))?;
            Ok::<_, SnapshotError>(
                CompletedPart::builder()
                    .part_number(number)
                    .set_e_tag(sent.e_tag)
                    .set_checksum_crc32(sent.checksum_crc32)
                    .build(),
            )
        });
        let parts: Vec<CompletedPart> = futures::stream::iter(parts)
            .buffered(PARALLEL_PARTS)
            .try_collect()
            .await?;
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts));
        let request = self.client.complete_multipart_upload();
        let request = request.bucket(&self.bucket).key(key).upload_id(upload);
        let sent = request.multipart_upload(parts.build()).send().await;
        sent.map(drop).map_err(|e| self.failed("writing", key, e))
    }
}

/// A server that is asked too often: the SDK's own classifiers want to know its error code.
#[derive(Debug)]
struct Busy;

impl ClassifyRetry for Busy {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        match context.response().map(|r| r.status().as_u16()) {
            Some(429) => RetryAction::throttling_error(),
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "429"
    }
}

/// The bounds of calls that send nothing large.
fn asking() -> aws_sdk_s3::config::Builder {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(ASK_TIMEOUT)
        .operation_timeout(ASK_OPERATION_TIMEOUT)
        .build();
    aws_sdk_s3::Config::builder().timeout_config(timeouts)
}

/// TLS by rustls, trusting the configured certificates or the system's (`SSL_CERT_FILE` names others).
fn http_client(config: &S3Config) -> Result<SharedHttpClient> {
    let mut trusted = tls::TrustStore::default();
    if let Some(ca) = &config.ca {
        trusted = tls::TrustStore::empty().with_pem_certificate(ca.clone());
    }
    let context = tls::TlsContext::builder().with_trust_store(trusted).build();
    let context = context.map_err(|e| super::endpoint::bad_ca(&e.to_string()))?;
    let provider = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
    Ok(aws_smithy_http_client::Builder::new()
        .tls_provider(provider)
        .tls_context(context)
        .build_https())
}

#[async_trait]
impl ObjectStore for S3Store {
    fn name(&self) -> String {
        format!("s3://{}/", self.bucket)
    }

    async fn put_file(&self, key: &str, file: &Path) -> Result<()> {
        check_key(key)?;
        let meta = tokio::fs::metadata(file).await;
        let bytes = meta.map_err(super::error::io("read", file))?.len();
        if bytes <= SINGLE_PUT {
            self.put_whole(key, file).await
        } else {
            self.put_parts(key, file, bytes).await
        }
    }

    async fn put_if_absent(&self, key: &str, bytes: Vec<u8>) -> Result<bool> {
        check_key(key)?;
        for attempt in 1.. {
            let request = self.client.put_object().bucket(&self.bucket).key(key);
            let body = ByteStream::from(bytes.clone());
            let Err(error) = request.if_none_match("*").body(body).send().await else {
                return Ok(true);
            };
            match error.raw_response().map(|r| r.status().as_u16()) {
                // Ours may be the very object in the way: written by an attempt whose answer was lost.
                Some(412) => {
                    let there = super::objects::get_small(self, key, bytes.len()).await;
                    return Ok(there.is_ok_and(|there| there == bytes));
                }
                // Another conditional write of this key is under way.
                Some(409) if attempt < ATTEMPTS => {}
                _ => return Err(self.failed("writing", key, error)),
            }
        }
        Ok(false)
    }

    async fn get(&self, key: &str) -> Result<Body> {
        check_key(key)?;
        let request = self.client.get_object().bucket(&self.bucket).key(key);
        let answer = request.customize().config_override(asking()).send().await;
        let mut body = answer.map_err(|e| self.failed("reading", key, e))?.body;
        let (send, receive) = mpsc::channel(AHEAD);
        tokio::spawn(async move {
            let (mut chunks, mut bytes, mut ended) = (Vec::new(), 0, false);
            while !ended {
                match body.try_next().await {
                    Ok(Some(chunk)) => {
                        bytes += chunk.len();
                        chunks.push(chunk);
                    }
                    Ok(None) => ended = true,
                    Err(e) => {
                        let broke_off = io::Error::other(chain(&e));
                        drop(send.send(Err(broke_off)).await);
                        return;
                    }
                }
                if bytes >= HANDED_OVER || ended {
                    let chunks = std::mem::take(&mut chunks).into_iter();
                    bytes = 0;
                    // A reader that is gone wants no more.
                    if send.send(Ok(Some(chunks))).await.is_err() {
                        return;
                    }
                }
            }
            drop(send.send(Ok(None)).await);
        });
        Ok(Box::new(Download {
            receive,
            chunks: vec![].into_iter(),
            chunk: Bytes::new(),
            ended: false,
        }))
    }

    async fn delete(&self, key: &str) -> Result<()> {
        check_key(key)?;
        let request = self.client.delete_object().bucket(&self.bucket).key(key);
        let answer = request.customize().config_override(asking()).send().await;
        match answer.map_err(|e| self.failed("deleting", key, e)) {
            Ok(_) | Err(SnapshotError::NoObject { .. }) => Ok(()),
            Err(e) => Err(e),
        }
    }

    async fn list(&self, prefix: &str, after: Option<&str>) -> Result<Page> {
        let request = self.client.list_objects_v2().bucket(&self.bucket);
        let request = request.prefix(prefix).max_keys(PAGE_KEYS as i32);
        let answer = request
            .set_start_after(after.map(str::to_owned))
            .customize()
            .config_override(asking())
            .send()
            .await;
        let answer = answer.map_err(|e| self.failed("listing", prefix, e))?;
        let keys = answer.contents().iter().filter_map(|o| o.key());
        Ok(Page {
            keys: keys.map(str::to_owned).collect(),
            more: answer.is_truncated().unwrap_or(false),
        })
    }
}

async fn part(file: &Path, offset: u64, length: Option<u64>) -> Result<ByteStream> {
    let mut stream = ByteStream::read_from()
        .path(file)
        .offset(offset)
        .buffer_size(BUFFER);
    if let Some(length) = length {
        stream = stream.length(Length::Exact(length));
    }
    let built = stream.build().await;
    built.map_err(|e| super::error::io("read", file)(io::Error::other(e)))
}

/// Some bytes of a download, or `None`: its end.
type Handed = io::Result<Option<std::vec::IntoIter<Bytes>>>;

/// A download as a blocking reader. An end that was not announced is an error: the task that fills it died.
struct Download {
    receive: mpsc::Receiver<Handed>,
    chunks: std::vec::IntoIter<Bytes>,
    chunk: Bytes,
    ended: bool,
}

impl BufRead for Download {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.chunk.is_empty() && !self.ended {
            if let Some(chunk) = self.chunks.next() {
                self.chunk = chunk;
                continue;
            }
            match self.receive.blocking_recv() {
                Some(Ok(Some(chunks))) => self.chunks = chunks,
                Some(Ok(None)) => self.ended = true,
                Some(Err(broke_off)) => return Err(broke_off),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        Ok(&self.chunk)
    }

    fn consume(&mut self, n: usize) {
        self.chunk.advance(n);
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buffer)?;
        self.consume(n);
        Ok(n)
    }
}
