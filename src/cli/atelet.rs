//! `ate atelet`.

use super::args::{KubeArgs, S3Args, TlsArgs};
use super::probes::ProbeArgs;
use super::{block_on, stop};
use crate::api::pool::{CLASS_LABEL, POOL_LABEL};
use crate::kube::{Catalog, ReflectedCatalog};
use crate::network::Cidr;
use crate::node::atelet::{self, Form, PoolSlots, Processes, WorkerPod};
use crate::telemetry::{self, Format};
use anyhow::Context;
use k8s_openapi::api::core::v1::Pod;
use kube::{Client, ResourceExt};
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
    /// What the slots are: child processes, as many as the pools ask for, or this node's pods with the label ate.dev/worker-pool
    #[arg(long, value_name = "FORM", value_enum, default_value_t = Slots::Processes)]
    slots: Slots,
    /// Address to serve gRPC on
    #[arg(long, value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Where the API server reaches that [default: as --listen says]
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// The API server's gRPC address
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "api.ate-system.svc:443"
    )]
    apiserver: String,
    /// File with this pod's token, renewed, for API servers that ask for one (--node-agent-user)
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// SHA-256 of a runtime that templates may name; may be given several times
    #[arg(long = "allow-runtime", value_name = "SHA256", default_values = KNOWN_RUNTIMES)]
    allowed_runtimes: Vec<String>,
    /// Bytes that copies of snapshots may take
    #[arg(long, value_name = "BYTES", default_value_t = 8 << 30)]
    cache_bytes: u64,
    /// Bytes that unpacked images may take, those that run and those of golden snapshots apart
    #[arg(long, value_name = "BYTES", default_value_t = 32 << 30)]
    image_bytes: u64,
    /// Docker configuration (config.json) with credentials of registries, after the pull secrets of templates; read at each pull
    #[arg(long, value_name = "FILE")]
    docker_config: Option<PathBuf>,
    #[command(flatten)]
    probes: ProbeArgs,
    #[command(flatten)]
    processes: ProcessArgs,
    #[command(flatten)]
    kube: KubeArgs,
    #[command(flatten)]
    tls: TlsArgs,
    #[command(flatten)]
    s3: S3Args,
}

/// Builds of runsc that existing manifests name: the nightly of 2026-05-19, for x86-64 and for 64-bit Arm.
const KNOWN_RUNTIMES: [&str; 2] = [
    "a397be1abc2420d26bce6c70e6e2ff96c73aaaab929756c56f5e2089ea842b63",
    "1ba2366ae2efceba166046f51a4104f9261c9cb72c6db8f5b3fe2dc57dea86b9",
];

/// What slots are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Slots {
    Processes,
    Pods,
}

/// Of slots that are processes.
#[derive(clap::Args)]
#[command(next_help_heading = "With --slots processes")]
struct ProcessArgs {
    /// Subnet of the slots, four addresses for each
    #[arg(long, value_name = "CIDR", default_value = "10.231.0.0/16")]
    subnet: Cidr,
    /// Begins the names of the slots' network links
    #[arg(long, value_name = "NAME", default_value = "ate")]
    network_name: String,
    /// Leave sandboxes running when stopped, for the next node agent to adopt; those in pods always are
    #[arg(long)]
    leave_slots: bool,
}

pub(super) fn main(args: Args) -> anyhow::Result<()> {
    telemetry::init("atelet", Format::Text);
    block_on(async {
        let stop = stop::on_signal()?;
        args.probes.answer(&stop).await?;
        let s3 = args.s3.without_empty().config()?;
        let client = crate::kube::client(args.kube.kubeconfig.as_deref()).await?;
        let stop_slots_on_exit = args.slots == Slots::Processes && !args.processes.leave_slots;
        let form = match args.slots {
            Slots::Processes => processes(args.processes, &client, &stop).await?,
            Slots::Pods => match pods(&client, &args.node_name, &stop).await {
                Some(pods) => Form::Pods(pods),
                None => return Ok(()),
            },
        };
        let listener = TcpListener::bind(args.listen)
            .await
            .with_context(|| format!("cannot listen on {}", args.listen))?;
        let options = atelet::Options {
            node: args.node_name,
            dir: args.dir,
            run_dir: args.run_dir,
            listener,
            advertised: args.advertise.unwrap_or_else(|| args.listen.to_string()),
            apiserver: args.apiserver,
            token_file: args.token_file,
            tls: args.tls.files(),
            allowed_runtimes: args.allowed_runtimes.into_iter().collect(),
            allow_runsc_on_path: true,
            cache_bytes: args.cache_bytes,
            image_bytes: args.image_bytes,
            docker_config: args.docker_config,
            s3,
            form,
            stop_slots_on_exit,
        };
        Ok(atelet::run(options, stop).await?)
    })
}

async fn processes(
    args: ProcessArgs,
    client: &Client,
    stop: &CancellationToken,
) -> anyhow::Result<Form> {
    let catalog = ReflectedCatalog::start(client, stop);
    Ok(Form::Processes(Processes {
        pools: pools(catalog, stop.clone()).await,
        executable: std::env::current_exe().context("cannot find the ate executable")?,
        network_name: args.network_name,
        network: args.subnet,
        refused: vec![],
    }))
}

/// The workers among the pods of this node. Returns when they are known, so that a start never removes what runs; `None` when `stop` came
/// first.
async fn pods(
    client: &Client,
    node: &str,
    stop: &CancellationToken,
) -> Option<watch::Receiver<Vec<WorkerPod>>> {
    let mut pods = crate::kube::worker_pods(client, node, stop).await?;
    let read = |pods: &[Arc<Pod>]| pods.iter().filter_map(|pod| worker_pod(pod)).collect();
    let (sender, receiver) = watch::channel(read(&pods.borrow_and_update()));
    tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
        while pods.changed().await.is_ok() {
            let workers: Vec<WorkerPod> = read(&pods.borrow_and_update());
            sender.send_if_modified(|now| std::mem::replace(now, workers.clone()) != workers);
        }
    }));
    Some(receiver)
}

/// `None` for one whose containers have ended for good: an evicted pod is kept to be looked at.
fn worker_pod(pod: &Pod) -> Option<WorkerPod> {
    let status = pod.status.as_ref();
    let phase = status.and_then(|s| s.phase.as_deref());
    if matches!(phase, Some("Failed" | "Succeeded")) {
        return None;
    }
    let ip = status.and_then(|s| s.pod_ip.as_deref());
    Some(WorkerPod {
        namespace: pod.metadata.namespace.clone()?,
        name: pod.metadata.name.clone()?,
        uid: pod.metadata.uid.clone()?,
        pool: pod.labels().get(POOL_LABEL)?.clone(),
        class: pod.labels().get(CLASS_LABEL)?.clone(),
        ip: ip.and_then(|ip| ip.parse().ok()),
        runs: phase == Some("Running"),
        leaving: pod.metadata.deletion_timestamp.is_some(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(status: serde_json::Value) -> Option<WorkerPod> {
        let labels = json!({POOL_LABEL: "pool", CLASS_LABEL: "gvisor"});
        let metadata = json!({"name": "p", "namespace": "team", "uid": "u", "labels": labels});
        let pod = json!({"metadata": metadata, "status": status});
        worker_pod(&serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn a_pod_is_a_worker_until_its_containers_have_ended() {
        let pending = read(json!({"phase": "Pending"})).unwrap();
        assert_eq!((pending.runs, pending.ip), (false, None));
        let running = read(json!({"phase": "Running", "podIP": "10.0.0.1"})).unwrap();
        assert!(running.runs && running.ip.is_some() && !running.leaving);
        for ended in ["Failed", "Succeeded"] {
            assert_eq!(read(json!({"phase": ended, "podIP": "10.0.0.1"})), None);
        }
    }
}
