//! The gRPC doors: `ateapi.Control` and `ateapi.SessionIdentity` for existing clients, `Bindings` for routers and
//! `Nodes` for node agents.
//!
//! Every call passes [`access`]. Translates requests into calls of [`crate::engine`] and its answers into gRPC codes and messages that existing
//! clients match (`status`). Decides nothing about an actor.

mod access;
mod actors;
mod agents;
mod bindings;
mod convert;
mod nodes;
mod session;
mod status;

pub use access::Access;
pub use agents::Agents;
pub use status::status;

use crate::engine::Engine;
use crate::kube::ActorCaps;
use crate::proto::ateapi::DESCRIPTORS;
use crate::proto::ateapi::control_server::ControlServer;
use crate::proto::ateapi::session_identity_server::SessionIdentityServer;
use crate::proto::atenode::bindings_server::BindingsServer;
use crate::proto::atenode::nodes_server::NodesServer;
use crate::rpc::incoming;
use axum::middleware::from_fn_with_state;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

/// How long a call waits for an actor when the client sets no deadline.
pub const DEFAULT_WAIT: Duration = Duration::from_secs(60);
/// How many actors a namespace may have unless the installation says otherwise.
pub const DEFAULT_ACTOR_CAP: u64 = 1_000_000;
/// Largest request.
const MAX_REQUEST: usize = 1 << 20;
/// How many streams one connection may have open.
const MAX_STREAMS: u32 = 4096;

/// Why the gRPC server did not start or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// TLS or the transport failed.
    #[error("the gRPC server failed")]
    Transport(#[from] tonic::transport::Error),
    /// Server reflection could not be built from the compiled descriptors.
    #[error("server reflection cannot be built")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// The services, sharing one engine.
#[derive(Clone)]
struct Doors {
    engine: Arc<Engine>,
    caps: ActorCaps,
    access: Arc<Access>,
}

/// Serves all gRPC services on `listener` until told to stop. `tls` asks clients for a certificate and leaves it to `access`.
pub async fn serve(
    listener: TcpListener,
    tls: rustls::ServerConfig,
    engine: Arc<Engine>,
    caps: ActorCaps,
    access: Access,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let access = Arc::new(access);
    let doors = Doors {
        engine,
        caps,
        access: access.clone(),
    };
    let v1 = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .build_v1()?;
    let v1alpha = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .build_v1alpha()?;
    let routes = Routes::new(v1)
        .add_service(v1alpha)
        .add_service(ControlServer::new(doors.clone()).max_decoding_message_size(MAX_REQUEST))
        .add_service(
            SessionIdentityServer::new(session::NotServed).max_decoding_message_size(MAX_REQUEST),
        )
        .add_service(BindingsServer::new(doors.clone()).max_decoding_message_size(MAX_REQUEST))
        .add_service(NodesServer::new(doors))
        .into_axum_router()
        .layer(from_fn_with_state(access, access::pass));
    let connections = incoming::incoming(listener, tls, stop.clone());
    tonic::transport::Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .add_routes(Routes::from(routes))
        .serve_with_incoming_shutdown(connections, stop.cancelled_owned())
        .await?;
    Ok(())
}
