//! The way to the nodes: orders are lost, answers are lost, orders arrive late or twice.

use super::node::{self, Order, who};
use super::store::Life;
use super::world::World;
use crate::api::{Reason, SnapshotId};
use crate::proto::atenode::*;
use crate::rpc::nodes::{NodeClient, NodeError};
use async_trait::async_trait;
use rand::Rng;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tonic::Status;

/// How an order fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Well,
    Lost,
    AnswerLost,
    Late(u64),
    Twice(u64),
}

/// An order is late by so much at most, in milliseconds.
const LATEST: u64 = 6_000;

/// A replica's way to the nodes.
pub struct Calls {
    pub world: World,
    pub life: Life,
}

fn unreachable<T>(why: &'static str) -> Result<T, NodeError> {
    Err(NodeError::Unreachable(Box::new(Status::unavailable(why))))
}

impl Calls {
    fn fate(&self) -> Fate {
        let mut state = self.world.lock();
        let storm = state.storm;
        if state.calm || !state.chance(storm) {
            return Fate::Well;
        }
        let late = state.rng.random_range(0..LATEST);
        match state.rng.random_range(0..4) {
            0 => Fate::Lost,
            1 => Fate::AnswerLost,
            2 => Fate::Late(late),
            _ => Fate::Twice(late),
        }
    }

    /// Carries an order to the node at `address`. The node goes on with it whatever becomes of the caller.
    async fn carry<T, F>(
        &self,
        what: String,
        address: &str,
        limit: Duration,
        act: impl Fn(usize) -> F + Send + 'static,
    ) -> Result<T, NodeError>
    where
        T: Send + std::fmt::Debug + 'static,
        F: Future<Output = Result<T, NodeError>> + Send + 'static,
    {
        let before = self.life.before_call(&what).await;
        let (fate, way) = (self.fate(), self.world.moment(15));
        let node = self
            .world
            .lock()
            .nodes
            .iter()
            .position(|n| n.address == address);
        sleep(way).await;
        let Some(node) = node.filter(|n| !self.world.lock().is_cut(*n)) else {
            sleep(Duration::from_millis(100)).await;
            self.life.after_call(before).await;
            return unreachable("no route");
        };
        self.world.lock().orders += 1;
        self.world
            .note(|| format!("{}: {what} to n{node} ({fate:?})", self.life.name));
        let answer = match fate {
            Fate::Lost => unreachable("lost"),
            Fate::Late(by) => {
                tokio::spawn(async move {
                    sleep(Duration::from_millis(by)).await;
                    act(node).await
                });
                unreachable("late")
            }
            Fate::Well | Fate::AnswerLost | Fate::Twice(_) => {
                let answer = timeout(limit, tokio::spawn(act(node))).await;
                if let Fate::Twice(by) = fate {
                    tokio::spawn(async move {
                        sleep(Duration::from_millis(by)).await;
                        act(node).await
                    });
                }
                match answer {
                    Err(_) => Err(NodeError::TimedOut),
                    Ok(_) if fate == Fate::AnswerLost => unreachable("answer lost"),
                    Ok(_) if self.world.lock().is_cut(node) => unreachable("cut off"),
                    Ok(answer) => answer.expect("the node does not panic"),
                }
            }
        };
        self.world
            .note(|| format!("{}: {what} -> {answer:?}", self.life.name));
        self.life.after_call(before).await;
        answer
    }

    fn order(target: String, actor: &Option<ActorIdentity>, fence: Option<Fence>) -> Order {
        Order {
            node: 0,
            uid: target,
            who: who(actor),
            fence: fence.expect("every order has a fence"),
        }
    }
}

#[async_trait]
impl NodeClient for Calls {
    async fn run(
        &self,
        address: &str,
        r: RunRequest,
        limit: Duration,
    ) -> Result<RunResponse, NodeError> {
        let order = Self::order(r.target_ateom_uid, &r.actor, r.fence);
        let (world, what) = (
            self.world.clone(),
            format!("run {} {}", order.who.key.name, order.fence.epoch),
        );
        let act = move |node| {
            node::start(
                world.clone(),
                Order {
                    node,
                    ..order.clone()
                },
                None,
            )
        };
        let address = self.carry(what, address, limit, act).await?;
        Ok(RunResponse {
            address,
            steps: vec![],
        })
    }

    async fn restore(
        &self,
        address: &str,
        r: RestoreRequest,
        limit: Duration,
    ) -> Result<RestoreResponse, NodeError> {
        let workload = r.workload.clone().unwrap_or_default();
        {
            let mut state = self.world.lock();
            state.pull_secrets.push(workload.pull_secrets.len());
            if state.no_images && workload.pull_secrets_left_out {
                return Err(NodeError::Failed {
                    reason: Reason::ImageUnavailable,
                    message: "no image".into(),
                });
            }
        }
        let order = Self::order(r.target_ateom_uid, &r.actor, r.fence);
        let (world, what) = (
            self.world.clone(),
            format!("restore {} {}", order.who.key.name, order.fence.epoch),
        );
        let act = move |node| {
            node::start(
                world.clone(),
                Order {
                    node,
                    ..order.clone()
                },
                r.snapshot.clone(),
            )
        };
        let address = self.carry(what, address, limit, act).await?;
        Ok(RestoreResponse {
            address,
            steps: vec![],
        })
    }

    async fn checkpoint(
        &self,
        address: &str,
        r: CheckpointRequest,
        limit: Duration,
    ) -> Result<CheckpointResponse, NodeError> {
        let order = Self::order(r.target_ateom_uid, &r.actor, r.fence);
        let snapshot = r.snapshot.expect("a checkpoint names its snapshot");
        let (world, what) = (
            self.world.clone(),
            format!("checkpoint {} {}", order.who.key.name, order.fence.epoch),
        );
        let act = move |node| {
            node::checkpoint(
                world.clone(),
                Order {
                    node,
                    ..order.clone()
                },
                snapshot.clone(),
            )
        };
        let runtime = self.carry(what, address, limit, act).await?;
        Ok(CheckpointResponse {
            bytes: 1,
            steps: vec![],
            runtime: runtime.map(|r| r.to_string()).unwrap_or_default(),
        })
    }

    async fn stop(
        &self,
        address: &str,
        r: StopRequest,
        limit: Duration,
    ) -> Result<StopResponse, NodeError> {
        let order = Self::order(r.target_ateom_uid, &r.actor, r.fence);
        let (world, what) = (
            self.world.clone(),
            format!("stop {} {}", order.who.key.name, order.fence.epoch),
        );
        let act = move |node| {
            node::stop(
                world.clone(),
                Order {
                    node,
                    ..order.clone()
                },
            )
        };
        self.carry(what, address, limit, act).await?;
        Ok(StopResponse { steps: vec![] })
    }

    async fn publish(
        &self,
        address: &str,
        r: PublishRequest,
        limit: Duration,
    ) -> Result<PublishResponse, NodeError> {
        let id = r
            .snapshot
            .and_then(|s| s.id.parse().ok())
            .expect("a snapshot id");
        let like = r.like.iter().map(|s| s.id.parse().expect("a snapshot id"));
        let like: Vec<SnapshotId> = like.collect();
        let order = Self::order(String::new(), &r.actor, r.fence);
        let world = self.world.clone();
        let act = move |node| {
            node::publish(
                world.clone(),
                Order {
                    node,
                    ..order.clone()
                },
                id,
                like.clone(),
            )
        };
        let bytes = self
            .carry(format!("publish {id}"), address, limit, act)
            .await?;
        Ok(PublishResponse {
            bytes,
            steps: vec![],
        })
    }

    async fn describe_snapshot(
        &self,
        address: &str,
        r: DescribeSnapshotRequest,
        limit: Duration,
    ) -> Result<DescribeSnapshotResponse, NodeError> {
        let snapshot = r.snapshot.expect("a snapshot");
        let (world, what) = (self.world.clone(), format!("describe {}", snapshot.id));
        let act = move |node| {
            let found = node::describe(&world, node, &snapshot);
            async move { Ok(found) }
        };
        let found = self.carry(what, address, limit, act).await?;
        let runtime = found.and_then(|saved| saved.runtime);
        Ok(DescribeSnapshotResponse {
            exists: found.is_some(),
            bytes: 1,
            runtime: runtime.map(|r| r.to_string()).unwrap_or_default(),
            ..Default::default()
        })
    }

    async fn delete_snapshots(
        &self,
        address: &str,
        r: DeleteSnapshotsRequest,
        limit: Duration,
    ) -> Result<DeleteSnapshotsResponse, NodeError> {
        let (world, what) = (
            self.world.clone(),
            format!("delete snapshots of {}", who(&r.actor).key.name),
        );
        let act = move |node| {
            node::delete_snapshots(&world, node, &r);
            async move { Ok(()) }
        };
        self.carry(what, address, limit, act).await?;
        Ok(DeleteSnapshotsResponse {})
    }

    async fn observe(
        &self,
        address: &str,
        r: ObserveRequest,
        limit: Duration,
    ) -> Result<ObserveResponse, NodeError> {
        let (world, target) = (self.world.clone(), r.target_ateom_uid);
        let what = format!("observe {target}");
        let act = move |node| {
            let mut state = world.lock();
            let mut slots = state.slots_of(node);
            slots.retain(|s| target.is_empty() || s.uid == target);
            let unknown = slots.is_empty() && state.chance(0.5);
            async move {
                if unknown {
                    return Err(NodeError::NotFound {
                        message: "no such slot".into(),
                    });
                }
                Ok(slots)
            }
        };
        let slots = self.carry(what, address, limit, act).await?;
        Ok(ObserveResponse { slots })
    }
}
