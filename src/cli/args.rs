//! Arguments that several subcommands share.

use crate::api::quantity::Quantity;
use crate::api::resources::Room;
use crate::identity::Leaf;
use crate::rpc::{Tls, TlsFiles};
use crate::snapshot::S3Config;
use crate::store::redis::{ClientCertificate, RedisStore, StoreOptions, StoreTls};
use anyhow::Context;
use clap::Args;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Who we are to other processes of ours, and whom we trust.
#[derive(Args, Clone, Debug)]
pub(super) struct TlsArgs {
    /// CA certificate that our processes' certificates are signed by, PEM
    #[arg(long, value_name = "FILE", env = "ATE_TLS_CA")]
    pub tls_ca: PathBuf,
    /// Certificate of this process, PEM
    #[arg(long, value_name = "FILE", env = "ATE_TLS_CERT")]
    pub tls_cert: PathBuf,
    /// Private key of this process, PEM
    #[arg(long, value_name = "FILE", env = "ATE_TLS_KEY")]
    pub tls_key: PathBuf,
}

impl TlsArgs {
    pub(super) fn files(&self) -> TlsFiles {
        TlsFiles {
            ca: self.tls_ca.clone(),
            cert: self.tls_cert.clone(),
            key: self.tls_key.clone(),
        }
    }

    /// Reads them, and again when they change until `stop`.
    pub(super) fn follow(&self, stop: &CancellationToken) -> anyhow::Result<Tls> {
        Ok(self.files().follow(stop)?)
    }
}

/// Where the store is.
#[derive(Args, Clone, Debug)]
pub(super) struct StoreArgs {
    /// Redis or Valkey: redis://HOST:PORT, rediss://HOST:PORT or redis+unix:///PATH; several for a cluster
    #[arg(
        long,
        value_name = "URL",
        env = "ATE_STORE",
        value_delimiter = ',',
        required = true
    )]
    pub store: Vec<String>,
    /// The store is a cluster
    #[arg(long)]
    pub store_cluster: bool,
    /// The store has a certificate of our own CA, and asks for ours
    #[arg(long)]
    pub store_mutual_tls: bool,
}

impl StoreArgs {
    /// The store; it may still be away. `ours`: our certificate.
    pub(super) async fn connect(&self, ours: &Tls) -> anyhow::Result<Arc<RedisStore>> {
        let first = self.store.first().cloned().unwrap_or_default();
        let options = StoreOptions {
            urls: self.store.clone(),
            cluster: self.store_cluster,
            tls: self.store_mutual_tls.then(|| ours.map(store_tls)),
            ..StoreOptions::new(first)
        };
        let store = RedisStore::connect_in_time(options).await;
        Ok(Arc::new(store.with_context(|| {
            format!("cannot use the store {}", redacted(&self.store))
        })?))
    }
}

fn store_tls(ca: &str, leaf: &Leaf) -> StoreTls {
    StoreTls {
        ca: Some(ca.into()),
        client: Some(ClientCertificate {
            certificate: leaf.chain.as_str().into(),
            key: leaf.key.as_str().into(),
        }),
    }
}

/// Addresses without user and password.
fn redacted(urls: &[String]) -> String {
    let clean = |url: &String| match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        _ => url.clone(),
    };
    urls.iter().map(clean).collect::<Vec<_>>().join(",")
}

/// Where the Kubernetes API is.
#[derive(Args, Clone, Debug)]
pub(super) struct KubeArgs {
    /// Kubeconfig; default: what KUBECONFIG or the pod's service account say
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

/// How S3 is reached. Keys are no arguments: everybody on the machine can read those.
#[derive(Args, Clone, Debug)]
#[command(
    next_help_heading = "Snapshots at s3:// (keys and region: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, or the AWS profile)"
)]
pub(super) struct S3Args {
    /// S3 server other than AWS's own: https://HOST:PORT, or http:// on this machine
    #[arg(
        long,
        value_name = "URL",
        env = "AWS_ENDPOINT_URL_S3",
        hide_env_values = true
    )]
    pub s3_endpoint: Option<String>,
    /// CA certificates of the S3 server, PEM; default: the system's
    #[arg(
        long,
        value_name = "FILE",
        env = "AWS_CA_BUNDLE",
        hide_env_values = true
    )]
    pub s3_ca: Option<PathBuf>,
}

impl S3Args {
    /// As AWS's tools do, what is set to nothing counts as not set.
    pub(super) fn without_empty(self) -> Self {
        S3Args {
            s3_endpoint: self.s3_endpoint.filter(|url| !url.is_empty()),
            s3_ca: self.s3_ca.filter(|file| !file.as_os_str().is_empty()),
        }
    }

    pub(super) fn config(&self) -> anyhow::Result<S3Config> {
        let read = |file: &PathBuf| {
            std::fs::read(file).with_context(|| format!("cannot read --s3-ca {}", file.display()))
        };
        let config = S3Config {
            endpoint: self.s3_endpoint.clone(),
            ca: self.s3_ca.as_ref().map(read).transpose()?,
            ca_file: self.s3_ca.clone(),
            ..S3Config::default()
        };
        config.check()?;
        Ok(config)
    }
}

/// How actors are moved.
#[derive(Args, Clone, Debug)]
pub(super) struct EngineArgs {
    /// Where snapshots go whose template names no location
    #[arg(
        long,
        value_name = "URL",
        default_value = "file:///var/lib/ate/published"
    )]
    pub snapshots: String,
    /// How long a node's sandboxes may run without the node renewing its lease, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 90)]
    pub node_lease: u64,
    /// How long an operation owns an actor without renewing, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    pub operation_lease: u64,
    /// What this replica is called, also when it is started again, and no other while it runs: it goes on at once with what its
    /// earlier process left, where others wait for --operation-lease. In Kubernetes the name of the pod
    #[arg(long, value_name = "NAME")]
    pub replica_name: Option<String>,
    /// Memory of a worker whose pool does not say, by spec.template.resources.limits: a template that needs more has no worker
    /// there. Default: as much as it needs
    #[arg(long, value_name = "QUANTITY")]
    pub worker_memory: Option<Quantity>,
    /// Processors of a worker whose pool does not say. Default: as many as a template asks for
    #[arg(long, value_name = "QUANTITY")]
    pub worker_cpu: Option<Quantity>,
}

impl EngineArgs {
    pub(super) fn options(&self) -> crate::engine::Options {
        crate::engine::Options {
            snapshot_location: self.snapshots.clone(),
            operation_lease: std::time::Duration::from_secs(self.operation_lease.max(1)),
            node_lease: std::time::Duration::from_secs(self.node_lease.max(1)),
            replica: self.replica_name.clone(),
            room: Room {
                memory: self.worker_memory.map(Quantity::whole),
                cpu: self.worker_cpu.map(Quantity::millis),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        let shown = redacted(&[
            "rediss://user:secret@host:6379".into(),
            "redis+unix:///run/v.sock".into(),
        ]);
        assert_eq!(shown, "rediss://host:6379,redis+unix:///run/v.sock");
    }
}
