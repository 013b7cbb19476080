//! The engine as the REST API's driver of actors.

use super::follow::{Follower, LOG_LIMIT, unavailable};
use crate::api::record::{ActorRecord, Desired};
use crate::api::{ActorKey, Reason};
use crate::apiserver::driver::{ActorDriver, DriveError, LogOptions};
use crate::engine::{Call, DriveError as EngineError, Engine};
use crate::proto::atenode::LogsRequest;
use crate::proto::atenode::logs_request::Start;
use crate::rpc::TonicNodes;
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use std::sync::Arc;
use std::time::Duration;

/// How long a deletion is waited for; it goes on afterwards.
const DELETE_LIMIT: Duration = Duration::from_secs(5);

/// Engine and nodes behind the API's trait.
pub(super) struct EngineDriver {
    pub(super) engine: Arc<Engine>,
    pub(super) nodes: Arc<TonicNodes>,
}

impl EngineDriver {
    async fn order(
        &self,
        key: &ActorKey,
        desired: Desired,
        boot: bool,
        wait: Option<Duration>,
    ) -> Result<ActorRecord, DriveError> {
        let Some(wait) = wait else {
            return self
                .engine
                .order(key, desired, boot)
                .await
                .map_err(of_engine);
        };
        let call = Call {
            boot,
            ..Call::within(wait)
        };
        let record = match desired {
            Desired::Running => self.engine.resume(key, call).await,
            Desired::Suspended => self.engine.suspend(key, call).await,
            Desired::Paused => self.engine.pause(key, call).await,
            Desired::Deleted => self
                .engine
                .delete(key, call)
                .await
                .map(|()| ActorRecord::default()),
        };
        record.map_err(of_engine)
    }
}

#[async_trait]
impl ActorDriver for EngineDriver {
    async fn resume(
        &self,
        key: &ActorKey,
        boot: bool,
        wait: Option<Duration>,
    ) -> Result<ActorRecord, DriveError> {
        self.order(key, Desired::Running, boot, wait).await
    }

    async fn suspend(
        &self,
        key: &ActorKey,
        wait: Option<Duration>,
    ) -> Result<ActorRecord, DriveError> {
        self.order(key, Desired::Suspended, false, wait).await
    }

    async fn pause(
        &self,
        key: &ActorKey,
        wait: Option<Duration>,
    ) -> Result<ActorRecord, DriveError> {
        self.order(key, Desired::Paused, false, wait).await
    }

    async fn delete(&self, key: &ActorKey) -> Result<(), DriveError> {
        let mut call = Call::within(DELETE_LIMIT);
        if let Ok(record) = self.engine.store().get_actor(key).await {
            if !record.meta.finalizers.is_empty() {
                return Ok(());
            }
            call = call.only(record.status.uid);
        }
        match self.engine.delete(key, call).await {
            Ok(()) | Err(EngineError::DeadlineExceeded) => Ok(()),
            Err(e) => Err(of_engine(e)),
        }
    }

    async fn logs(
        &self,
        key: &ActorKey,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<Bytes, DriveError>>, DriveError> {
        let container = options.container.unwrap_or_default();
        let tail = options.tail.and_then(|n| u32::try_from(n).ok());
        let start = Start::TailLines(tail.unwrap_or(0));
        if options.follow {
            // Told at once that there is none.
            self.engine.node_of(key).await.map_err(of_engine)?;
            let follower = Follower {
                engine: self.engine.clone(),
                nodes: self.nodes.clone(),
                key: key.clone(),
                container,
                start,
            };
            return Ok(follower.stream());
        }
        let asleep = || {
            DriveError::Precondition(format!(
                "actor {key} is asleep: logs are on the node while it runs"
            ))
        };
        let node = self.engine.node_of(key).await.map_err(of_engine)?;
        let (address, actor) = node.ok_or_else(asleep)?;
        let request = LogsRequest {
            actor: Some(actor),
            container,
            follow: false,
            start: Some(start),
        };
        let stream = self
            .nodes
            .logs(&address, request, LOG_LIMIT)
            .await
            .map_err(|e| unavailable(&e))?;
        let chunk = |c: Result<crate::proto::atenode::LogsChunk, tonic::Status>| {
            c.map(|c| Bytes::from(c.data))
                .map_err(|e| DriveError::Unavailable(e.message().to_owned()))
        };
        Ok(stream.map(chunk).boxed())
    }
}

pub(super) fn of_engine(error: EngineError) -> DriveError {
    let message = error.to_string();
    match error {
        EngineError::NotFound(_) => DriveError::NotFound(message),
        EngineError::InProgress => DriveError::Conflict(message),
        EngineError::WrongPhase { .. } => DriveError::Precondition(message),
        EngineError::Failed {
            reason: Reason::NamespaceNotAllowed,
            ..
        } => DriveError::Forbidden(message),
        EngineError::Failed { reason, .. } if reason.is_transient() => {
            DriveError::Unavailable(message)
        }
        EngineError::Failed { .. } => DriveError::Precondition(message),
        EngineError::DeadlineExceeded => DriveError::Timeout(message),
        EngineError::Store(_) => DriveError::Unavailable(message),
    }
}
