//! `ate apiserver`.

use super::args::{EngineArgs, KubeArgs, StoreArgs, TlsArgs};
use super::driver::EngineDriver;
use super::{block_on, stop};
use crate::apiserver::authn::require_certificate;
use crate::apiserver::{self, ActorDriver, App, kinds};
use crate::control::{self, DEFAULT_ACTOR_CAP};
use crate::engine::Engine;
use crate::identity::Leaf;
use crate::identity::tls::{ClientAuth, server_config};
use crate::kube::{Catalog, ReflectedCatalog};
use crate::rpc::TonicNodes;
use crate::store::Store;
use crate::telemetry::{self, Format};
use anyhow::Context;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Address of the REST API
    #[arg(long, value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Address of the gRPC API
    #[arg(long, value_name = "ADDRESS")]
    listen_grpc: SocketAddr,
    /// How many actors a namespace may have
    #[arg(long, value_name = "NUMBER", default_value_t = DEFAULT_ACTOR_CAP)]
    actors_per_namespace: u64,
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
    telemetry::init("apiserver", Format::Text);
    block_on(serve(args))
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let stop = stop::on_signal()?;
    let rest = bind(args.listen).await?;
    let grpc = bind(args.listen_grpc).await?;
    let store: Arc<dyn Store> = args.store.connect().await?;
    let tls = args.tls.load()?;
    let nodes = Arc::new(TonicNodes::new(args.tls.load()?));
    let client = crate::kube::client(args.kube.kubeconfig.as_deref()).await?;
    let catalog: Arc<dyn Catalog> = ReflectedCatalog::start(&client, &stop);
    let options = args.engine.options();
    let engine = Engine::new(store.clone(), nodes.clone(), catalog.clone(), options);
    let driver: Arc<dyn ActorDriver> = Arc::new(EngineDriver {
        engine: engine.clone(),
        nodes,
    });
    let kinds = kinds::dev(&store, &driver, &catalog, args.actors_per_namespace)?;
    let app = App::builder()
        .register_all(kinds)
        .shutdown(stop.clone())
        .build();

    let rest = apiserver::serve(
        rest,
        rest_tls(&args.tls)?,
        require_certificate(app.router()),
        stop.clone(),
    );
    let recovery = tokio::spawn(engine.clone().recover(stop.clone()));
    let grpc = control::serve(grpc, &tls, engine, args.actors_per_namespace, stop.clone());
    let ((), served) = tokio::join!(rest, grpc);
    stop.cancel();
    recovery.await.context("recovery ended badly")?;
    Ok(served?)
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}"))
}

fn rest_tls(files: &TlsArgs) -> anyhow::Result<Arc<rustls::ServerConfig>> {
    let read = |path: &std::path::Path| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let leaf = Leaf {
        chain: read(&files.tls_cert)?,
        key: read(&files.tls_key)?,
    };
    Ok(Arc::new(server_config(
        &leaf,
        &read(&files.tls_ca)?,
        ClientAuth::Optional,
    )?))
}
