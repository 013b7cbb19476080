//! The node agents as the engine sees them: one call to one node, and whether its outcome is known.

mod channels;
mod error;
#[cfg(test)]
mod tests;

pub use error::{NodeError, REASON_METADATA, failed, refused};

use super::{Tls, deadline};
use crate::proto::atenode::ateom_herder_client::AteomHerderClient;
use crate::proto::atenode::{
    CheckpointRequest, CheckpointResponse, DeleteSnapshotsRequest, DeleteSnapshotsResponse,
    DescribeSnapshotRequest, DescribeSnapshotResponse, LogsChunk, LogsRequest, ObserveRequest,
    ObserveResponse, PublishRequest, PublishResponse, RestoreRequest, RestoreResponse, RunRequest,
    RunResponse, StopRequest, StopResponse,
};
use async_trait::async_trait;
use channels::Channels;
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

/// The calls of `AteomHerder`, each to the node agent at `address` (host:port).
///
/// After `Ok` the node has done what was asked. After an error whose [`NodeError::outcome_unknown`] holds it may
/// have, may still, or may never do it: repeat the call with the same epoch, or observe. Every call returns within
/// `timeout`, which the node is told too.
#[async_trait]
pub trait NodeClient: Send + Sync {
    /// Boots an actor on a slot from its images.
    async fn run(
        &self,
        address: &str,
        request: RunRequest,
        timeout: Duration,
    ) -> Result<RunResponse, NodeError>;
    /// Restores an actor on a slot from a snapshot.
    async fn restore(
        &self,
        address: &str,
        request: RestoreRequest,
        timeout: Duration,
    ) -> Result<RestoreResponse, NodeError>;
    /// Saves an actor, ends its sandbox and proves the slot clean.
    async fn checkpoint(
        &self,
        address: &str,
        request: CheckpointRequest,
        timeout: Duration,
    ) -> Result<CheckpointResponse, NodeError>;
    /// Ends an actor's sandbox without saving it.
    async fn stop(
        &self,
        address: &str,
        request: StopRequest,
        timeout: Duration,
    ) -> Result<StopResponse, NodeError>;
    /// Publishes a snapshot that so far is on the node only.
    async fn publish(
        &self,
        address: &str,
        request: PublishRequest,
        timeout: Duration,
    ) -> Result<PublishResponse, NodeError>;
    /// Says whether a snapshot is complete and readable.
    async fn describe_snapshot(
        &self,
        address: &str,
        request: DescribeSnapshotRequest,
        timeout: Duration,
    ) -> Result<DescribeSnapshotResponse, NodeError>;
    /// Removes snapshots.
    async fn delete_snapshots(
        &self,
        address: &str,
        request: DeleteSnapshotsRequest,
        timeout: Duration,
    ) -> Result<DeleteSnapshotsResponse, NodeError>;
    /// What the slots run now.
    async fn observe(
        &self,
        address: &str,
        request: ObserveRequest,
        timeout: Duration,
    ) -> Result<ObserveResponse, NodeError>;
}

/// [`NodeClient`] over mutual TLS, with one connection per node, made when first needed. Cheap to share.
pub struct TonicNodes {
    channels: Channels,
}

impl TonicNodes {
    /// A client that shows `tls` to nodes. Connects to nobody yet.
    pub fn new(tls: Tls) -> Self {
        Self {
            channels: Channels::new(tls),
        }
    }

    /// The logs of an actor's containers on the node at `address`, as they come. `timeout` bounds the wait for the
    /// node's answer, not the stream, which ends when the logs do or when it is dropped.
    pub async fn logs(
        &self,
        address: &str,
        request: LogsRequest,
        timeout: Duration,
    ) -> Result<Streaming<LogsChunk>, NodeError> {
        let mut client = AteomHerderClient::new(self.channels.get(address)?);
        match tokio::time::timeout(timeout, client.logs(request)).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_) => Err(NodeError::TimedOut),
        }
    }

    async fn call<Q, A, F>(
        &self,
        address: &str,
        request: Q,
        timeout: Duration,
        rpc: impl FnOnce(AteomHerderClient<Channel>, Request<Q>) -> F,
    ) -> Result<A, NodeError>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let client = AteomHerderClient::new(self.channels.get(address)?);
        let mut request = Request::new(request);
        deadline::set(&mut request, timeout);
        // The channel's own timeout does not cover the time that it takes to connect.
        match tokio::time::timeout(timeout, rpc(client, request)).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_) => Err(NodeError::TimedOut),
        }
    }
}

macro_rules! node_client {
    ($($method:ident: $request:ty => $response:ty;)*) => {
        #[async_trait]
        impl NodeClient for TonicNodes {
            $(async fn $method(
                &self,
                address: &str,
                request: $request,
                timeout: Duration,
            ) -> Result<$response, NodeError> {
                self.call(address, request, timeout, |mut client, request| async move { client.$method(request).await })
                    .await
            })*
        }
    };
}

node_client! {
    run: RunRequest => RunResponse;
    restore: RestoreRequest => RestoreResponse;
    checkpoint: CheckpointRequest => CheckpointResponse;
    stop: StopRequest => StopResponse;
    publish: PublishRequest => PublishResponse;
    describe_snapshot: DescribeSnapshotRequest => DescribeSnapshotResponse;
    delete_snapshots: DeleteSnapshotsRequest => DeleteSnapshotsResponse;
    observe: ObserveRequest => ObserveResponse;
}
