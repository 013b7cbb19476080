//! `ate tls`.

use super::args::TlsArgs;
use super::probes::ProbeArgs;
use super::{block_on, stop};
use crate::rpc::front::{self, Clients};
use crate::telemetry::{self, Format};
use anyhow::Context;
use std::net::SocketAddr;
use tokio::net::TcpListener;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Address to take TLS connections on
    #[arg(long, value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Where the server is that they are passed on to
    #[arg(long, value_name = "ADDRESS")]
    to: SocketAddr,
    /// Only processes of ours with this name in their certificate; may be given several times. Default: everybody
    #[arg(long = "for", value_name = "NAME")]
    clients: Vec<String>,
    #[command(flatten)]
    probes: ProbeArgs,
    #[command(flatten)]
    tls: TlsArgs,
}

pub(super) fn main(args: Args) -> anyhow::Result<()> {
    telemetry::init("tls", Format::Text);
    block_on(async {
        let stop = stop::on_signal()?;
        args.probes.answer_for(&stop, Some(args.to)).await?;
        let listener = TcpListener::bind(args.listen)
            .await
            .with_context(|| format!("cannot listen on {}", args.listen))?;
        let tls = args.tls.follow(&stop)?;
        let (tls, clients) = match args.clients.is_empty() {
            true => (tls.open_server()?, Clients::Any),
            false => (tls.server()?, Clients::Ours(args.clients.into())),
        };
        front::serve(listener, tls, clients, args.to, stop).await;
        Ok(())
    })
}
