//! The gRPC server: reads orders, fences them, and hands them to the slot that they are for.

use super::files::{Identity, Target};
use super::outcome::{Answer, Failure};
use super::pools::Slots;
use super::slot::{Node, Slot, StartOrder};
use super::{identity, logs};
use crate::api::{Epoch, Reason};
use crate::proto::atenode::ateom_herder_server::AteomHerder;
use crate::proto::atenode::{
    ActorIdentity, CheckpointRequest, CheckpointResponse, DeleteSnapshotsRequest,
    DeleteSnapshotsResponse, DescribeSnapshotRequest, DescribeSnapshotResponse, Fence, LogsChunk,
    LogsRequest, ObserveRequest, ObserveResponse, PublishRequest, PublishResponse, RestoreRequest,
    RestoreResponse, RunRequest, RunResponse, StepTiming, StopRequest, StopResponse, Workload,
};
use futures::future::join_all;
use futures::stream::BoxStream;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// Snapshots that one is published on top of: looked at, in their order.
const MAX_LIKE: usize = 4;

/// Takes orders for the slots of this node.
pub(super) struct Herder {
    pub node: Arc<Node>,
    pub slots: Arc<Slots>,
}

impl Herder {
    fn slot(&self, uid: &str) -> Result<Arc<Slot>, Failure> {
        let unknown = || Failure::NotFound(format!("this node has no slot {uid:?}"));
        self.slots.find(uid).ok_or_else(unknown)
    }

    async fn start(
        &self,
        uid: &str,
        actor: Option<ActorIdentity>,
        fence: Option<Fence>,
        workload: Option<Workload>,
        snapshot: Option<Target>,
    ) -> Result<(String, Vec<StepTiming>), Failure> {
        let (actor, fence) = (identity::actor(actor, true)?, identity::fence(fence)?);
        let missing = || Failure::Invalid("workload is missing".into());
        let workload = workload.ok_or_else(missing)?;
        let slot = self.slot(uid)?;
        self.node.lease.may_act()?;
        self.node.fences.admit(&actor, &fence, true)?;
        let elsewhere = self.slots.list().into_iter().find(|other| {
            !Arc::ptr_eq(other, &slot) && other.assignment().is_some_and(|a| a.actor.is(&actor))
        });
        if let Some(other) = elsewhere {
            let name = other.place.name();
            return Err(Failure::Refused(format!(
                "slot {name} has this actor; stop it there first"
            )));
        }
        self.node.images.may_be_missing(&workload).await?;
        let order = StartOrder { workload, snapshot };
        match slot.start(actor, fence.epoch, order).await? {
            Answer::Started { address, steps } => Ok((address, steps)),
            other => Err(unexpected(&other)),
        }
    }

    async fn save(&self, request: CheckpointRequest) -> Result<CheckpointResponse, Failure> {
        let actor = identity::actor(request.actor, true)?;
        let fence = identity::fence(request.fence)?;
        let target = identity::target(request.snapshot)?;
        self.node.lease.may_act()?;
        self.node.fences.admit(&actor, &fence, false)?;
        let slot = match (
            self.slot(&request.target_ateom_uid),
            self.node.snapshots.saved(&target.id),
        ) {
            (Ok(slot), _) => slot,
            // Done before; the slot was rebuilt since.
            (Err(_), Some((bytes, runtime))) => {
                return Ok(CheckpointResponse {
                    bytes,
                    runtime,
                    steps: vec![],
                });
            }
            (Err(failure), None) => return Err(failure),
        };
        match slot.save(&actor, fence.epoch, target).await? {
            Answer::Saved {
                bytes,
                runtime,
                steps,
            } => Ok(CheckpointResponse {
                bytes,
                runtime,
                steps,
            }),
            other => Err(unexpected(&other)),
        }
    }

    async fn end(&self, request: StopRequest) -> Result<StopResponse, Failure> {
        let actor: Identity = identity::actor(request.actor, false)?;
        let fence = identity::fence(request.fence)?;
        let slot = self.slot(&request.target_ateom_uid)?;
        self.node.fences.admit(&actor, &fence, false)?;
        match slot.end(&actor, fence.epoch).await? {
            Answer::Ended { steps } => Ok(StopResponse { steps }),
            other => Err(unexpected(&other)),
        }
    }

    async fn publish(&self, request: PublishRequest) -> Result<PublishResponse, Failure> {
        let actor = identity::actor(request.actor, true)?;
        let fence = identity::fence(request.fence)?;
        let target = identity::target(request.snapshot)?;
        let like = request.like.into_iter().take(MAX_LIKE);
        let like: Result<Vec<_>, _> = like.map(|like| identity::target(Some(like))).collect();
        let like = like?;
        self.node.lease.may_act()?;
        self.node.fences.admit(&actor, &fence, false)?;
        let mut laps = super::laps::Laps::begin();
        // It goes on when whoever ordered it goes away: the next one joins it.
        let node = self.node.clone();
        let published =
            tokio::spawn(async move { node.snapshots.publish_like(&target, &like).await });
        let ended =
            |_| Failure::Failed(Reason::CheckpointFailed, "the publication broke off".into());
        let bytes = published.await.map_err(ended)??;
        laps.lap("publish");
        self.node.changed.send_replace(());
        let steps = laps.steps();
        Ok(PublishResponse { bytes, steps })
    }

    async fn describe(
        &self,
        request: DescribeSnapshotRequest,
    ) -> Result<DescribeSnapshotResponse, Failure> {
        let target = identity::target(request.snapshot)?;
        let found = self.node.snapshots.describe(&target).await?;
        Ok(match found {
            None => DescribeSnapshotResponse::default(),
            Some((bytes, meta)) => DescribeSnapshotResponse {
                exists: true,
                bytes,
                runtime: meta.runtime.build,
                arch: meta.cpu.arch,
            },
        })
    }

    async fn delete(&self, request: DeleteSnapshotsRequest) -> Result<(), Failure> {
        let actor = identity::actor(request.actor, false)?;
        let uid = uuid::Uuid::try_parse(&actor.uid)
            .map_err(|_| Failure::Invalid("actor.uid is missing".into()))?;
        let before = Epoch(request.before_epoch);
        let snapshots = &self.node.snapshots;
        let deleted = snapshots
            .delete(&request.uri, uid, before, &request.keep)
            .await;
        self.node.changed.send_replace(());
        deleted
    }

    async fn observe(&self, uid: &str) -> ObserveResponse {
        let slots = self.slots.list();
        let asked = slots
            .iter()
            .filter(|slot| uid.is_empty() || slot.uid().as_deref() == Some(uid));
        join_all(asked.map(|slot| slot.observe())).await;
        let mut slots = self.slots.views();
        slots.retain(|slot| uid.is_empty() || slot.uid == uid);
        ObserveResponse { slots }
    }
}

fn unexpected(answer: &Answer) -> Failure {
    Failure::Failed(
        Reason::SandboxLost,
        format!("the slot answered another order: {answer:?}"),
    )
}

#[tonic::async_trait]
impl AteomHerder for Herder {
    async fn run(&self, request: Request<RunRequest>) -> Result<Response<RunResponse>, Status> {
        let r = request.into_inner();
        let (uid, workload) = (&r.target_ateom_uid, r.workload);
        let (address, steps) = self.start(uid, r.actor, r.fence, workload, None).await?;
        Ok(Response::new(RunResponse { address, steps }))
    }

    async fn restore(
        &self,
        request: Request<RestoreRequest>,
    ) -> Result<Response<RestoreResponse>, Status> {
        let r = request.into_inner();
        let (uid, workload) = (&r.target_ateom_uid, r.workload);
        let snapshot = Some(identity::target(r.snapshot)?);
        let (address, steps) = self
            .start(uid, r.actor, r.fence, workload, snapshot)
            .await?;
        Ok(Response::new(RestoreResponse { address, steps }))
    }

    async fn checkpoint(
        &self,
        request: Request<CheckpointRequest>,
    ) -> Result<Response<CheckpointResponse>, Status> {
        Ok(Response::new(self.save(request.into_inner()).await?))
    }

    async fn stop(&self, request: Request<StopRequest>) -> Result<Response<StopResponse>, Status> {
        Ok(Response::new(self.end(request.into_inner()).await?))
    }

    async fn publish(
        &self,
        request: Request<PublishRequest>,
    ) -> Result<Response<PublishResponse>, Status> {
        let response = Herder::publish(self, request.into_inner()).await?;
        Ok(Response::new(response))
    }

    async fn describe_snapshot(
        &self,
        request: Request<DescribeSnapshotRequest>,
    ) -> Result<Response<DescribeSnapshotResponse>, Status> {
        Ok(Response::new(self.describe(request.into_inner()).await?))
    }

    async fn delete_snapshots(
        &self,
        request: Request<DeleteSnapshotsRequest>,
    ) -> Result<Response<DeleteSnapshotsResponse>, Status> {
        self.delete(request.into_inner()).await?;
        Ok(Response::new(DeleteSnapshotsResponse {}))
    }

    async fn observe(
        &self,
        request: Request<ObserveRequest>,
    ) -> Result<Response<ObserveResponse>, Status> {
        let uid = request.into_inner().target_ateom_uid;
        Ok(Response::new(Herder::observe(self, &uid).await))
    }

    type LogsStream = BoxStream<'static, Result<LogsChunk, Status>>;

    async fn logs(
        &self,
        request: Request<LogsRequest>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        let request = request.into_inner();
        let actor = identity::actor(request.actor.clone(), true)?;
        let dir = self.node.layout.actor(&actor);
        let stream = logs::stream(&dir, &actor, &request)?;
        Ok(Response::new(stream))
    }
}
