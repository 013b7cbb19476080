//! `ate dev`.

use super::args::S3Args;
use super::{block_on, stop};
use crate::dev;
use crate::network::Cidr;
use crate::telemetry::{self, Format};
use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Directory for everything that must survive: store, snapshots, images, certificates, logs
    #[arg(long, value_name = "DIR", default_value = "/var/lib/ate")]
    dir: PathBuf,
    /// Directory for sockets and small state
    #[arg(long, value_name = "DIR", default_value = "/run/ate")]
    run_dir: PathBuf,
    /// Address of the HTTP router
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    router: SocketAddr,
    /// Address of the API that kubectl talks to; gRPC and the node agent take the two ports after it
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7443")]
    api: SocketAddr,
    /// Subnet of the slots, IPv4 /16
    #[arg(long, value_name = "CIDR", default_value = "10.231.0.0/16")]
    subnet: Cidr,
    /// How long a node's sandboxes may run without the node renewing its lease, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 90)]
    node_lease: u64,
    /// How long an operation owns an actor without renewing, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    operation_lease: u64,
    /// SHA-256 of a runtime that templates may name beside the runsc on PATH; may be given several times
    #[arg(long = "allow-runtime", value_name = "SHA256")]
    allowed_runtimes: Vec<String>,
    /// Docker configuration with credentials of registries [default: config.json in $DOCKER_CONFIG or ~/.docker]
    #[arg(long, value_name = "FILE")]
    docker_config: Option<PathBuf>,
    #[command(flatten)]
    s3: S3Args,
}

/// Where docker itself looks.
fn docker_config() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let dir = set("DOCKER_CONFIG").map(PathBuf::from);
    let home = || Some(PathBuf::from(set("HOME")?).join(".docker"));
    Some(dir.or_else(home)?.join("config.json"))
}

pub(super) fn main(args: Args) -> anyhow::Result<()> {
    telemetry::init("dev", Format::Text);
    block_on(async {
        let stop = stop::on_signal()?;
        let s3 = args.s3.without_empty();
        // What the node agent would stumble over is said before anything is started.
        s3.config()?;
        if let Some(file) = args.docker_config.as_ref().filter(|file| !file.is_file()) {
            anyhow::bail!("--docker-config: there is no file {}", file.display());
        }
        let options = dev::Options {
            dir: args.dir,
            run_dir: args.run_dir,
            router: args.router,
            api: args.api,
            subnet: args.subnet,
            node_lease: args.node_lease,
            operation_lease: args.operation_lease,
            allowed_runtimes: args.allowed_runtimes,
            docker_config: args.docker_config.or_else(docker_config),
            s3_endpoint: s3.s3_endpoint,
            s3_ca: s3.s3_ca,
        };
        Ok(dev::run(options, stop).await?)
    })
}
