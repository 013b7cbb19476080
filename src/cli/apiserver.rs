//! `ate apiserver`.

use super::args::{EngineArgs, KubeArgs, StoreArgs, TlsArgs};
use super::driver::EngineDriver;
use super::probes::ProbeArgs;
use super::{block_on, stop};
use crate::access::{self, ANONYMOUS, ClientCa, Gate, Inflight, Tokens};
use crate::apiserver::authn;
use crate::apiserver::{self, ActorDriver, App, kinds};
use crate::control::{self, Access, Agents, DEFAULT_ACTOR_CAP};
use crate::engine::Engine;
use crate::kube::{
    ActorCaps, Catalog, Everywhere, Namespaces, ReflectedCatalog, ReflectedNamespaces,
};
use crate::rpc::{Tls, TonicNodes};
use crate::store::Store;
use crate::telemetry::{self, Format};
use anyhow::Context;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[derive(clap::Args)]
pub(super) struct Args {
    /// Address of the REST API
    #[arg(long, value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Address of the gRPC API
    #[arg(long, value_name = "ADDRESS")]
    listen_grpc: SocketAddr,
    /// How many actors a namespace may have that does not say so itself, by its annotation ate.dev/max-actors
    #[arg(long, value_name = "NUMBER", default_value_t = DEFAULT_ACTOR_CAP)]
    actors_per_namespace: u64,
    /// Leave `watch` out of what discovery says of actors, which can be watched all the same: for installations with so many
    /// that kube-controller-manager and Argo CD, which watch everything, must not hold them all in memory
    #[arg(long)]
    hide_actor_watch: bool,
    /// Serve templates, pools and namespaces too, and know clients by certificates of --tls-ca: what `ate dev` runs
    #[arg(long)]
    without_kubernetes: bool,
    /// Whom bearer tokens may be for, beside the Kubernetes API itself
    #[arg(long, value_name = "AUDIENCE", default_value = "api.ate-system.svc")]
    token_audience: Vec<String>,
    /// User that node agents are, system:serviceaccount:NAMESPACE:NAME: each must send its pod's token, and may report on that
    /// pod's node only [default: a certificate is enough]
    #[arg(long, value_name = "USER", conflicts_with = "without_kubernetes")]
    node_agent_user: Option<String>,
    /// As whom gRPC calls without credentials are authorized
    #[arg(long, value_name = "USER", default_value = ANONYMOUS)]
    grpc_anonymous_user: String,
    #[command(flatten)]
    probes: ProbeArgs,
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

/// What differs between a cluster and `ate dev`.
struct Surroundings {
    rest: Gate,
    grpc: Gate,
    namespaces: Arc<dyn Namespaces>,
}

async fn surroundings(
    args: &Args,
    client: &::kube::Client,
    ours: &Tls,
    stop: &CancellationToken,
) -> anyhow::Result<Surroundings> {
    if args.without_kubernetes {
        let gate = access::dev(ours.clone());
        return Ok(Surroundings {
            rest: gate.clone(),
            grpc: gate,
            namespaces: Arc::new(Everywhere),
        });
    }
    let trust = access::trust::watch(client, stop).await?;
    let gate = access::cluster(client, &trust, args.token_audience.clone());
    Ok(Surroundings {
        rest: gate.clone(),
        grpc: gate.with_anonymous(&args.grpc_anonymous_user),
        namespaces: ReflectedNamespaces::start(client, stop),
    })
}

async fn serve(args: Args) -> anyhow::Result<()> {
    let stop = stop::on_signal()?;
    args.probes.answer(&stop).await?;
    let rest = bind(args.listen).await?;
    let grpc = bind(args.listen_grpc).await?;
    let ours = args.tls.follow(&stop)?;
    let store: Arc<dyn Store> = args.store.connect(&ours).await?;
    let tls = ours.open_server()?;
    let nodes = Arc::new(TonicNodes::new(ours.clone()));
    let client = crate::kube::client(args.kube.kubeconfig.as_deref()).await?;
    let catalog: Arc<dyn Catalog> = ReflectedCatalog::start(&client, &stop);
    let options = args.engine.options();
    let secrets = Arc::new(client.clone());
    let engine = Engine::new(
        store.clone(),
        nodes.clone(),
        catalog.clone(),
        secrets,
        options,
    );
    let driver: Arc<dyn ActorDriver> = Arc::new(EngineDriver {
        engine: engine.clone(),
        nodes,
    });
    let around = surroundings(&args, &client, &ours, &stop).await?;
    let caps = ActorCaps::new(around.namespaces.clone(), args.actors_per_namespace);
    let mut kinds = match args.without_kubernetes {
        true => kinds::dev(&store, &driver, &catalog, caps.clone())?,
        false => kinds::cluster(&store, &driver, &catalog, caps.clone())?,
    };
    for kind in &mut kinds {
        kind.watch_hidden = args.hide_actor_watch && kind.plural == "actors";
        kind.collected = !args.without_kubernetes && !kind.watch_hidden;
    }
    let app = App::builder()
        .register_all(kinds)
        .namespaces(around.namespaces.clone())
        .shutdown(stop.clone())
        .build();
    let access = Access {
        gate: around.grpc,
        components: ClientCa::ours(ours),
        agents: args.node_agent_user.map(|user| {
            let tokens = Tokens::new(client.clone(), args.token_audience);
            Agents::new(tokens, user)
        }),
        namespaces: around.namespaces,
        inflight: Inflight::default(),
    };

    let router = authn::guard(app.router(), around.rest, Inflight::default());
    let rest = apiserver::serve(rest, Arc::new(tls.clone()), router, stop.clone());
    let recovery = tokio::spawn(engine.clone().recover(stop.clone()));
    let grpc = control::serve(grpc, tls, engine, caps, access, stop.clone());
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
