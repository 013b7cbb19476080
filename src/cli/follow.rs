//! An actor's log as it is written, from whatever node the actor is on: while it sleeps nothing comes, and where it wakes it goes on.

use super::driver::of_engine;
use crate::api::ActorKey;
use crate::apiserver::driver::DriveError;
use crate::engine::{DriveError as EngineError, Engine};
use crate::proto::atenode::logs_request::Start;
use crate::proto::atenode::{ActorIdentity, Here, LogsChunk, LogsRequest};
use crate::rpc::TonicNodes;
use crate::rpc::nodes::NodeError;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{BoxStream, try_unfold};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;

/// How long a node may take to begin answering with a log.
pub(super) const LOG_LIMIT: Duration = Duration::from_secs(10);
/// How long it may be silent until it is asked where the actor is.
const SILENCE: Duration = Duration::from_secs(1);
/// How long a log is followed; the caller asks again.
const FOLLOW_LIMIT: Duration = Duration::from_secs(12 * 3600);

/// Who follows a log, and how far.
pub(super) struct Follower {
    pub(super) engine: Arc<Engine>,
    pub(super) nodes: Arc<TonicNodes>,
    pub(super) key: ActorKey,
    /// Empty: the first.
    pub(super) container: String,
    /// What is shown first of what there is.
    pub(super) start: Start,
}

/// What comes from a node.
struct Source {
    address: String,
    chunks: BoxStream<'static, Result<LogsChunk, Status>>,
}

struct State {
    follower: Follower,
    source: Option<Source>,
    /// The node that was read last, and the position there.
    read: Option<(String, u64)>,
    /// It slept when it was first looked for: all that it writes is new.
    slept: bool,
    until: Instant,
}

impl Follower {
    pub(super) fn stream(self) -> BoxStream<'static, Result<Bytes, DriveError>> {
        let state = State {
            follower: self,
            source: None,
            read: None,
            slept: false,
            until: Instant::now() + FOLLOW_LIMIT,
        };
        try_unfold(state, State::next).boxed()
    }
}

impl State {
    async fn next(mut self) -> Result<Option<(Bytes, State)>, DriveError> {
        while Instant::now() < self.until {
            if let Some(data) = self.read().await {
                return Ok(Some((data, self)));
            }
            let found = self.follower.engine.node_of(&self.follower.key).await;
            let known = self.source.as_ref().map(|source| &source.address);
            match found {
                Ok(Some((address, _))) if known == Some(&address) => {}
                Ok(Some((address, actor))) => self.open(address, actor).await?,
                Err(EngineError::NotFound(_)) => return Ok(None),
                Err(error) if self.read.is_none() && !self.slept => return Err(of_engine(error)),
                Ok(None) | Err(_) => {
                    self.slept |= self.read.is_none();
                    if self.source.is_none() {
                        sleep(SILENCE).await;
                    }
                }
            }
        }
        Ok(None)
    }

    /// What the node says next, unless it is silent.
    async fn read(&mut self) -> Option<Bytes> {
        let source = self.source.as_mut()?;
        match timeout(SILENCE, source.chunks.next()).await {
            Ok(Some(Ok(chunk))) => {
                self.read = Some((source.address.clone(), chunk.position));
                Some(chunk.data.into())
            }
            // The node agent has ended, or what it grants.
            Ok(Some(Err(_)) | None) => {
                self.source = None;
                sleep(SILENCE).await;
                None
            }
            Err(_) => None,
        }
    }

    async fn open(&mut self, address: String, actor: ActorIdentity) -> Result<(), DriveError> {
        let start = match &self.read {
            Some((node, position)) if *node == address => Start::Position(*position),
            None if !self.slept => self.follower.start,
            Some(_) | None => Start::Here(Here {}),
        };
        let request = LogsRequest {
            actor: Some(actor),
            container: self.follower.container.clone(),
            follow: true,
            start: Some(start),
        };
        match self.follower.nodes.logs(&address, request, LOG_LIMIT).await {
            Ok(chunks) => {
                let chunks = chunks.boxed();
                self.source = Some(Source { address, chunks });
                Ok(())
            }
            // It goes on when the node does.
            Err(_) if self.read.is_some() || self.slept => {
                self.source = None;
                sleep(SILENCE).await;
                Ok(())
            }
            Err(error) => Err(unavailable(&error)),
        }
    }
}

pub(super) fn unavailable(error: &NodeError) -> DriveError {
    DriveError::Unavailable(error.to_string())
}
