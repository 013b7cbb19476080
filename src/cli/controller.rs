//! `ate controller`.

use super::args::{EngineArgs, KubeArgs, StoreArgs, TlsArgs};
use super::{block_on, stop};
use crate::engine::Engine;
use crate::kube::ReflectedCatalog;
use crate::rpc::TonicNodes;
use crate::telemetry::{self, Format};
use crate::{controller, kube};
use std::sync::Arc;

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    tls: TlsArgs,
    #[command(flatten)]
    kube: KubeArgs,
    #[command(flatten)]
    engine: EngineArgs,
}

pub(super) fn main(args: Args) -> anyhow::Result<()> {
    telemetry::init("controller", Format::Text);
    block_on(async {
        let stop = stop::on_signal()?;
        let client = kube::client(args.kube.kubeconfig.as_deref()).await?;
        let catalog = ReflectedCatalog::start(&client, &stop);
        let nodes = Arc::new(TonicNodes::new(args.tls.load()?));
        let engine = Engine::new(
            args.store.connect().await?,
            nodes,
            catalog,
            args.engine.options(),
        );
        controller::run(client, engine, stop).await;
        Ok(())
    })
}
