//! `ate atelet`.

use super::args::{KubeArgs, S3Args, TlsArgs};
use super::{block_on, stop};
use crate::kube::{Catalog, ReflectedCatalog};
use crate::network::Cidr;
use crate::node::atelet::{self, PoolSlots};
use crate::telemetry::{self, Format};
use anyhow::Context;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often the pools' cache is read.
const POOLS_EVERY: Duration = Duration::from_millis(200);

#[derive(clap::Args)]
pub(super) struct Args {
    /// Name of this node
    #[arg(long, value_name = "NAME")]
    node_name: String,
    /// Directory for images, snapshots and slots
    #[arg(long, value_name = "DIR", default_value = "/var/lib/ate")]
    dir: PathBuf,
    /// Directory for sockets and small state
    #[arg(long, value_name = "DIR", default_value = "/run/ate")]
    run_dir: PathBuf,
    /// Address to serve gRPC on, as the API server reaches it
    #[arg(long, value_name = "ADDRESS")]
    listen: SocketAddr,
    /// The API server's gRPC address
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "api.ate-system.svc:443"
    )]
    apiserver: String,
    /// Subnet of the slots, four addresses for each
    #[arg(long, value_name = "CIDR", default_value = "10.231.0.0/16")]
    subnet: Cidr,
    /// Begins the names of the slots' network links
    #[arg(long, value_name = "NAME", default_value = "ate")]
    network_name: String,
    /// SHA-256 of a runtime that templates may name; may be given several times
    #[arg(long = "allow-runtime", value_name = "SHA256")]
    allowed_runtimes: Vec<String>,
    /// Bytes that copies of snapshots may take
    #[arg(long, value_name = "BYTES", default_value_t = 8 << 30)]
    cache_bytes: u64,
    /// Leave sandboxes running when stopped, for the next node agent to adopt
    #[arg(long)]
    leave_slots: bool,
    #[command(flatten)]
    kube: KubeArgs,
    #[command(flatten)]
    tls: TlsArgs,
    #[command(flatten)]
    s3: S3Args,
}

pub(super) fn main(args: Args) -> anyhow::Result<()> {
    telemetry::init("atelet", Format::Text);
    block_on(async {
        let stop = stop::on_signal()?;
        let s3 = args.s3.without_empty().config()?;
        let client = crate::kube::client(args.kube.kubeconfig.as_deref()).await?;
        let catalog = ReflectedCatalog::start(&client, &stop);
        let listener = TcpListener::bind(args.listen)
            .await
            .with_context(|| format!("cannot listen on {}", args.listen))?;
        let options = atelet::Options {
            node: args.node_name,
            dir: args.dir,
            run_dir: args.run_dir,
            listener,
            advertised: args.listen.to_string(),
            apiserver: args.apiserver,
            tls: args.tls.files(),
            executable: std::env::current_exe().context("cannot find the ate executable")?,
            allowed_runtimes: args.allowed_runtimes.into_iter().collect(),
            allow_runsc_on_path: true,
            cache_bytes: args.cache_bytes,
            s3,
            network_name: args.network_name,
            network: args.subnet,
            refused: vec![],
            stop_slots_on_exit: !args.leave_slots,
        };
        let pools = pools(catalog, stop.clone()).await;
        Ok(atelet::run(options, pools, stop).await?)
    })
}

/// How many slots each pool shall have here: on one machine, all of them. Returns when the pools are known, so that a
/// start never removes what runs.
async fn pools(
    catalog: Arc<ReflectedCatalog>,
    stop: CancellationToken,
) -> watch::Receiver<Vec<PoolSlots>> {
    let mut ticks = tokio::time::interval(POOLS_EVERY);
    while !catalog.is_synced() && !stop.is_cancelled() {
        ticks.tick().await;
    }
    let (sender, receiver) = watch::channel(slots_of(&*catalog));
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        loop {
            ticks.tick().await;
            let pools = slots_of(&*catalog);
            sender.send_if_modified(|now| {
                let changed = *now != pools;
                *now = pools;
                changed
            });
        }
    }));
    receiver
}

fn slots_of(catalog: &dyn Catalog) -> Vec<PoolSlots> {
    let mut pools: Vec<PoolSlots> = catalog
        .pools()
        .iter()
        .map(|pool| PoolSlots {
            namespace: pool.metadata.namespace.clone().unwrap_or_default(),
            pool: pool.metadata.name.clone().unwrap_or_default(),
            class: pool.spec.sandbox_class.as_str().to_owned(),
            replicas: usize::try_from(pool.spec.replicas).unwrap_or(0),
        })
        .collect();
    pools.sort_by(|a, b| (&a.namespace, &a.pool).cmp(&(&b.namespace, &b.pool)));
    pools
}
