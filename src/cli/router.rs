//! `ate router`.

use super::args::TlsArgs;
use super::probes::ProbeArgs;
use super::{block_on, stop};
use crate::router;
use crate::rpc::Link;
use crate::telemetry::{self, Format};
use anyhow::Context;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Address to serve HTTP on
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// The API server's gRPC address
    #[arg(
        long,
        value_name = "HOST:PORT",
        default_value = "api.ate-system.svc:443"
    )]
    apiserver: String,
    #[command(flatten)]
    probes: ProbeArgs,
    #[command(flatten)]
    tls: TlsArgs,
}

pub(super) fn main(args: Args) -> anyhow::Result<()> {
    telemetry::init("router", Format::Text);
    block_on(async {
        let stop = stop::on_signal()?;
        args.probes.answer(&stop).await?;
        let listener = TcpListener::bind(args.listen)
            .await
            .with_context(|| format!("cannot listen on {}", args.listen))?;
        let link = Link::to_apiserver(&args.apiserver, &args.tls.follow(&stop)?)?;
        let resolver = Arc::new(router::ControlResolver::new(link));
        router::serve(listener, resolver, router::Options::default(), stop).await;
        Ok(())
    })
}
