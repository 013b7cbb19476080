//! The resolver that asks the API server.

use crate::api::names::{ActorKey, Epoch};
use crate::proto::atenode::bindings_server::{Bindings, BindingsServer};
use crate::proto::atenode::{ResolveRequest, ResolveResponse};
use crate::router::{Binding, ControlResolver, ResolveError, Resolver, Target};
use crate::rpc::testing::{Authority, from_peers, listen};
use crate::rpc::{Link, client_identity, deadline};
use async_trait::async_trait;
use std::time::Duration;
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status};

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

/// Knows `team/a` and the flat id `flat`; a name that is a number fails with that code.
struct Api;

#[async_trait]
impl Bindings for Api {
    async fn resolve(
        &self,
        request: Request<ResolveRequest>,
    ) -> Result<Response<ResolveResponse>, Status> {
        assert_eq!(client_identity(&request)?, "router");
        let left = deadline::of(&request, Duration::ZERO);
        assert!(left > Duration::ZERO && left <= LONG);
        let asked = request.into_inner();
        if let Ok(code) = asked.name.parse::<i32>() {
            return Err(Status::new(Code::from(code), "as asked"));
        }
        match (asked.namespace.as_str(), asked.name.as_str()) {
            ("team", "a") | ("", "flat") => Ok(Response::new(ResolveResponse {
                address: "10.0.0.1:4711".into(),
                epoch: 7,
                ..Default::default()
            })),
            ("", "hangs") => std::future::pending().await,
            _ => Err(Status::not_found("Actor not found")),
        }
    }
}

async fn api(authority: &Authority) -> (JoinHandle<()>, ControlResolver) {
    let (listener, address) = listen().await;
    let ours = authority.issue("apiserver").load().unwrap();
    let server = Server::builder()
        .add_service(BindingsServer::new(Api))
        .serve_with_incoming(from_peers(listener, &ours));
    let server = tokio::spawn(async move { server.await.unwrap() });
    let tls = authority.issue("router").load().unwrap();
    let link = Link::to_apiserver(&address, &tls).unwrap();
    (server, ControlResolver::new(link))
}

fn flat(id: &str) -> Target {
    Target::Flat(id.into())
}

#[tokio::test]
async fn it_asks_for_both_forms() {
    let (server, resolver) = api(&Authority::new()).await;
    let want = Binding {
        steps: vec![],
        address: "10.0.0.1:4711".into(),
        epoch: Epoch(7),
    };
    for target in [Target::Actor(ActorKey::new("team", "a")), flat("flat")] {
        assert_eq!(resolver.resolve(&target, LONG).await, Ok(want.clone()));
    }
    server.abort();
}

#[tokio::test]
async fn codes_become_errors() {
    use ResolveError::*;
    let (server, resolver) = api(&Authority::new()).await;
    for code in 1..=16 {
        let error = resolver.resolve(&flat(&code.to_string()), LONG).await;
        let make = match Code::from(code) {
            Code::NotFound => NotFound,
            Code::FailedPrecondition | Code::Unavailable => Unavailable,
            Code::DeadlineExceeded | Code::Cancelled => DeadlineExceeded,
            Code::PermissionDenied => PermissionDenied,
            Code::Unauthenticated => Unauthenticated,
            Code::ResourceExhausted => ResourceExhausted,
            _ => Internal,
        };
        assert_eq!(error, Err(make("as asked".into())), "{code}");
    }
    let late = resolver.resolve(&flat("hangs"), SHORT).await;
    assert!(matches!(late, Err(DeadlineExceeded(_))));
    server.abort();
}

#[tokio::test]
async fn an_api_server_that_restarts_is_waited_for() {
    let authority = Authority::new();
    let (listener, address) = listen().await;
    drop(listener);
    let tls = authority.issue("router").load().unwrap();
    let resolver = ControlResolver::new(Link::to_apiserver(&address, &tls).unwrap());

    let error = resolver.resolve(&flat("flat"), SHORT).await.unwrap_err();
    assert!(matches!(
        error,
        ResolveError::Unavailable(_) | ResolveError::DeadlineExceeded(_)
    ));

    let asking = tokio::spawn(async move { resolver.resolve(&flat("flat"), LONG).await });
    let listener = tokio::net::TcpListener::bind(&address).await.unwrap();
    let ours = authority.issue("apiserver").load().unwrap();
    let server = Server::builder()
        .add_service(BindingsServer::new(Api))
        .serve_with_incoming(from_peers(listener, &ours));
    let server = tokio::spawn(server);
    assert!(asking.await.unwrap().is_ok());
    server.abort();
}
