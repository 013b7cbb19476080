//! The client against a real server in this process.

use super::*;
use crate::api::reason::Reason;
use crate::identity::{self, LeafRequest, Usage};
use crate::proto::atenode::Slot;
use crate::proto::atenode::ateom_herder_server::{AteomHerder, AteomHerderServer};
use crate::rpc::testing::{Authority, from_peers, listen};
use crate::rpc::{Error, client_identity};
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::Server;

const LONG: Duration = Duration::from_secs(20);

/// Of the one call that waits.
static WAITING: Notify = Notify::const_new();
static RELEASED: Notify = Notify::const_new();

/// Answers by what is asked: `target_ateom_uid` names the outcome.
struct Node;

#[async_trait]
impl AteomHerder for Node {
    async fn run(&self, request: Request<RunRequest>) -> Result<Response<RunResponse>, Status> {
        let caller = client_identity(&request)?;
        let left = deadline::of(&request, Duration::ZERO);
        match request.into_inner().target_ateom_uid.as_str() {
            "ok" => Ok(Response::new(RunResponse {
                address: format!("{caller} {}", left > LONG / 2 && left <= LONG),
                ..Default::default()
            })),
            "fails" => Err(failed(Reason::BootFailed, "no such entrypoint")),
            "fenced" => Err(refused("epoch 1 is older than 2")),
            "panics" => panic!("as asked"),
            "hangs" => std::future::pending().await,
            "waits" => {
                WAITING.notify_one();
                RELEASED.notified().await;
                Ok(Response::new(Default::default()))
            }
            _ => Err(Status::not_found("no such slot")),
        }
    }

    async fn observe(
        &self,
        _: Request<ObserveRequest>,
    ) -> Result<Response<ObserveResponse>, Status> {
        let slots = vec![Slot::default()];
        Ok(Response::new(ObserveResponse { slots }))
    }

    async fn restore(
        &self,
        _: Request<RestoreRequest>,
    ) -> Result<Response<RestoreResponse>, Status> {
        Err(failed(Reason::RestoreFailed, "page 7 differs"))
    }

    async fn checkpoint(
        &self,
        _: Request<CheckpointRequest>,
    ) -> Result<Response<CheckpointResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn stop(&self, _: Request<StopRequest>) -> Result<Response<StopResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn publish(
        &self,
        _: Request<PublishRequest>,
    ) -> Result<Response<PublishResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn describe_snapshot(
        &self,
        _: Request<DescribeSnapshotRequest>,
    ) -> Result<Response<DescribeSnapshotResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    async fn delete_snapshots(
        &self,
        _: Request<DeleteSnapshotsRequest>,
    ) -> Result<Response<DeleteSnapshotsResponse>, Status> {
        Ok(Response::new(Default::default()))
    }

    type LogsStream = Pin<Box<dyn Stream<Item = Result<LogsChunk, Status>> + Send>>;

    async fn logs(&self, _: Request<LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let chunks = [b"one".to_vec(), b"two".to_vec()];
        let chunks = chunks.map(|data| Ok(LogsChunk { data, position: 0 }));
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks))))
    }
}

struct Served {
    address: String,
    server: AbortHandle,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(authority: &Authority, component: &str) -> Served {
    let (listener, address) = listen().await;
    let tls = authority.issue(component).load().unwrap();
    let server = Server::builder()
        .add_service(AteomHerderServer::new(Node))
        .serve_with_incoming(from_peers(listener, &tls));
    let server = tokio::spawn(server).abort_handle();
    Served { address, server }
}

fn client(authority: &Authority) -> TonicNodes {
    TonicNodes::new(authority.issue("apiserver").load().unwrap())
}

fn run(uid: &str) -> RunRequest {
    RunRequest {
        target_ateom_uid: uid.into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_call_carries_identity_and_deadline() {
    let authority = Authority::new();
    let node = serve(&authority, "atelet").await;
    let nodes = client(&authority);
    let answer = nodes.run(&node.address, run("ok"), LONG).await.unwrap();
    assert_eq!(answer.address, "apiserver true");
    let observed = nodes.observe(&node.address, ObserveRequest::default(), LONG);
    assert_eq!(observed.await.unwrap().slots.len(), 1);
}

#[tokio::test]
async fn outcomes_stay_apart() {
    let authority = Authority::new();
    let node = serve(&authority, "atelet").await;
    let nodes = client(&authority);
    let call = async |uid| nodes.run(&node.address, run(uid), LONG).await.unwrap_err();

    match call("fails").await {
        NodeError::Failed { reason, message } => {
            assert_eq!(reason, Reason::BootFailed);
            assert_eq!(message, "no such entrypoint");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(call("fenced").await, NodeError::Refused { .. }));
    assert!(matches!(call("other").await, NodeError::NotFound { .. }));
    assert!(call("panics").await.outcome_unknown());
    let error = nodes.run(&node.address, run("hangs"), Duration::from_millis(50));
    assert!(matches!(error.await, Err(NodeError::TimedOut)));
}

#[tokio::test]
async fn nobody_listening_is_unreachable() {
    let authority = Authority::new();
    let (listener, address) = listen().await;
    drop(listener);
    let error = client(&authority).run(&address, run("ok"), LONG).await;
    assert!(matches!(error, Err(NodeError::Unreachable(_))), "{error:?}");
}

#[tokio::test]
async fn a_connection_that_breaks_under_a_call_is_unreachable() {
    use tokio::io::copy_bidirectional;
    let authority = Authority::new();
    let node = serve(&authority, "atelet").await;
    let (relay, address) = listen().await;
    let target = node.address.clone();
    // Stands between client and node, and cuts the line when told.
    let (cut, told) = tokio::sync::oneshot::channel::<()>();
    let relay = async move {
        let (mut from, _) = relay.accept().await.unwrap();
        let mut to = tokio::net::TcpStream::connect(target).await.unwrap();
        tokio::select! { _ = copy_bidirectional(&mut from, &mut to) => {} _ = told => {} }
    };
    let nodes = client(&authority);
    let calls = async {
        nodes.run(&address, run("ok"), LONG).await.unwrap();
        let hanging = nodes.run(&address, run("hangs"), LONG);
        let cutting = async {
            nodes.run(&address, run("ok"), LONG).await.unwrap();
            cut.send(()).unwrap();
        };
        tokio::join!(hanging, cutting).0
    };
    let ((), error) = tokio::join!(relay, calls);
    assert!(matches!(error, Err(NodeError::Unreachable(_))), "{error:?}");
}

#[tokio::test]
async fn strangers_stay_out() {
    let authority = Authority::new();
    let node = serve(&authority, "atelet").await;
    let stranger = client(&Authority::new());
    let error = stranger.run(&node.address, run("ok"), LONG).await;
    assert!(matches!(error, Err(NodeError::Unreachable(_))), "{error:?}");

    let impostor = serve(&authority, "router").await;
    let nodes = client(&authority);
    let error = nodes.run(&impostor.address, run("ok"), LONG).await;
    assert!(matches!(error, Err(NodeError::Unreachable(_))), "{error:?}");
}

#[tokio::test]
async fn a_client_without_a_certificate_stays_out() {
    let authority = Authority::new();
    let node = serve(&authority, "atelet").await;
    let ca = std::fs::read(authority.path("ca.crt")).unwrap();
    let tls = tonic::transport::ClientTlsConfig::new()
        .ca_certificate(tonic::transport::Certificate::from_pem(ca))
        .domain_name("atelet");
    let channel = Channel::from_shared(format!("https://{}", node.address))
        .unwrap()
        .tls_config(tls)
        .unwrap()
        .connect_lazy();
    // The handler of this call does not look who asks.
    let mut client = AteomHerderClient::new(channel);
    assert!(client.observe(ObserveRequest::default()).await.is_err());
}

#[tokio::test]
async fn new_certificates_are_shown_and_asked_for_and_calls_under_way_go_on() {
    let ca = || identity::Authority::new("ca", LONG, SystemTime::now()).unwrap();
    let (old, new) = (ca(), ca());
    let both = format!("{}{}", new.certificate(), old.certificate());
    let show = |tls: &Tls, bundle: &str, by: &identity::Authority, name: &str| {
        let request = LeafRequest::new(name, Usage::Both).sans([name]);
        let leaf = by.leaf(&request).unwrap();
        tls.replace(bundle.to_owned(), leaf).unwrap();
    };
    let (server, client) = (Tls::not_yet(), Tls::not_yet());
    let nodes = Arc::new(TonicNodes::new(client.clone()));
    let (listener, address) = listen().await;
    let serving = Server::builder()
        .add_service(AteomHerderServer::new(Node))
        .serve_with_incoming(from_peers(listener, &server));
    let _served = Served {
        address: address.clone(),
        server: tokio::spawn(serving).abort_handle(),
    };
    let ok = async || nodes.run(&address, run("ok"), LONG).await;
    assert!(matches!(
        ok().await,
        Err(NodeError::Setup(Error::NoCertificateYet))
    ));

    show(&server, old.certificate(), &old, "atelet");
    show(&client, old.certificate(), &old, "apiserver");
    let waiting = {
        let (nodes, address) = (nodes.clone(), address.clone());
        tokio::spawn(async move { nodes.run(&address, run("waits"), LONG).await })
    };
    WAITING.notified().await;
    // The bundles first, then what is of the new CA, then nothing is of the old one.
    for (bundle, ours, theirs) in [
        (both.as_str(), &old, &old),
        (&both, &new, &old),
        (&both, &new, &new),
        (new.certificate(), &new, &new),
    ] {
        show(&server, bundle, theirs, "atelet");
        ok().await.unwrap();
        show(&client, bundle, ours, "apiserver");
        ok().await.unwrap();
    }
    RELEASED.notify_one();
    waiting.await.unwrap().unwrap();

    show(&client, &both, &old, "apiserver");
    let late = ok().await;
    assert!(matches!(late, Err(NodeError::Unreachable(_))), "{late:?}");
}

#[tokio::test]
async fn logs_stream() {
    let authority = Authority::new();
    let node = serve(&authority, "atelet").await;
    let nodes = client(&authority);
    let logs = nodes.logs(&node.address, LogsRequest::default(), LONG);
    let chunks: Vec<_> = logs.await.unwrap().collect().await;
    let text: Vec<u8> = chunks.into_iter().flat_map(|c| c.unwrap().data).collect();
    assert_eq!(text, b"onetwo");
}
