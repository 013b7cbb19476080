//! `ate controller`.

use super::args::{EngineArgs, KubeArgs, StoreArgs, TlsArgs};
use super::probes::ProbeArgs;
use super::{block_on, stop};
use crate::controller::{self, Certificates};
use crate::engine::Engine;
use crate::kube;
use crate::kube::ReflectedCatalog;
use crate::rpc::{Tls, TonicNodes};
use crate::telemetry::{self, Format};
use anyhow::Context;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    identity: IdentityArgs,
    #[command(flatten)]
    kube: KubeArgs,
    #[command(flatten)]
    probes: ProbeArgs,
    #[command(flatten)]
    engine: EngineArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Where our own certificate comes from.
#[derive(clap::Args)]
struct IdentityArgs {
    /// Issue and renew the certificates of all our processes, in Secrets of this namespace, and take our own from there
    #[arg(
        long,
        value_name = "NAMESPACE",
        conflicts_with = "TlsArgs",
        required_unless_present = "TlsArgs"
    )]
    issue_certificates: Option<String>,
    #[command(flatten)]
    files: Option<TlsArgs>,
}

impl IdentityArgs {
    /// Who we are, and what we issue.
    fn start(self, stop: &CancellationToken) -> anyhow::Result<(Tls, Option<Certificates>)> {
        if let Some(files) = self.files {
            return Ok((files.follow(stop)?, None));
        }
        let own = Tls::not_yet();
        let certificates = self.issue_certificates.map(|namespace| Certificates {
            namespace,
            own: own.clone(),
        });
        Ok((own, certificates))
    }
}

/// What there is to do on Kubernetes.
#[derive(clap::Args)]
#[command(next_help_heading = "On Kubernetes")]
struct ClusterArgs {
    /// Image of worker pods: a Deployment is made of each WorkerPool. Without it node agents make the workers
    #[arg(long, value_name = "IMAGE")]
    worker_image: Option<String>,
    /// What pools may name as ateomImage beside that image, by how it begins; may be given several times
    #[arg(
        long = "allow-worker-image",
        value_name = "PREFIX",
        requires = "worker_image"
    )]
    allowed: Vec<String>,
    /// What pools may name and --worker-image runs for it, beside ateom and ateom-*; may be given several times
    #[arg(
        long = "replace-worker-image",
        value_name = "PREFIX",
        requires = "worker_image"
    )]
    replaced: Vec<String>,
    /// Address to answer kube-apiserver's webhooks on; default: nowhere
    #[arg(long, value_name = "ADDRESS")]
    listen_webhooks: Option<SocketAddr>,
    /// Work only while holding the Lease ate-controller: for several controllers
    #[arg(long)]
    leader_elect: bool,
    /// Namespace of the Lease
    #[arg(long, value_name = "NAMESPACE", default_value = "ate-system")]
    leader_elect_namespace: String,
    /// How long the Lease holds without being renewed, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 15)]
    leader_elect_lease_duration: u64,
}

impl ClusterArgs {
    fn options(
        self,
        certificates: Option<Certificates>,
        webhooks: Option<(TcpListener, Tls)>,
        replica: Option<&str>,
    ) -> controller::Options {
        let (allowed, replaced) = (self.allowed, self.replaced);
        let lease = self.leader_elect.then(|| controller::LeaseOptions {
            namespace: self.leader_elect_namespace,
            identity: format!("{}_{}", replica.unwrap_or("controller"), Uuid::new_v4()),
            duration: Duration::from_secs(self.leader_elect_lease_duration.max(1)),
        });
        controller::Options {
            workers: self.worker_image.map(|own| controller::WorkerImages {
                own,
                allowed,
                replaced,
            }),
            certificates,
            webhooks,
            lease,
        }
    }
}

pub(super) fn main(args: Args) -> anyhow::Result<()> {
    telemetry::init("controller", Format::Text);
    block_on(async {
        let stop = stop::on_signal()?;
        args.probes.answer(&stop).await?;
        let client = kube::client(args.kube.kubeconfig.as_deref()).await?;
        let catalog = ReflectedCatalog::start(&client, &stop);
        let (own, certificates) = args.identity.start(&stop)?;
        let webhooks = match args.cluster.listen_webhooks {
            Some(address) => Some((bind(address).await?, own.clone())),
            None => None,
        };
        let store = args.store.connect(&own).await?;
        let nodes = Arc::new(TonicNodes::new(own));
        let secrets = Arc::new(client.clone());
        let engine = Engine::new(store, nodes, catalog, secrets, args.engine.options());
        let replica = args.engine.replica_name.as_deref();
        let options = args.cluster.options(certificates, webhooks, replica);
        controller::run(client, engine, options, stop).await;
        Ok(())
    })
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| format!("cannot listen on {address}"))
}
