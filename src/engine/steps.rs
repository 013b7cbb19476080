//! How each step is carried out.

use super::workload::{identity, workload};
use super::{DriveError, Engine};
use crate::api::names::SnapshotId;
use crate::api::record::{
    ActorRecord, Assignment, Claim, Desired, RolledBack, SnapshotRecord, WorkerRecord,
};
use crate::api::{ActorTemplate, Epoch, Phase, PoolKey, Reason, Timestamp};
use crate::lifecycle::Observed;
use crate::lifecycle::actor::{Outcome, Progress, Sandbox, Step, conclude};
use crate::lifecycle::placement::{self, Source};
use crate::proto::atenode as wire;
use crate::rpc::nodes::NodeError;
use crate::store::{ClaimRequest, Durability, StoreError};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tonic::Status;

/// A boot may have to fetch and unpack images.
const RUN_LIMIT: Duration = Duration::from_secs(600);
/// A restore may have to fetch a snapshot.
const RESTORE_LIMIT: Duration = Duration::from_secs(180);
/// A checkpoint writes and publishes a snapshot.
const CHECKPOINT_LIMIT: Duration = Duration::from_secs(180);
/// Ending a sandbox, asking what runs, looking at a snapshot.
const SHORT_LIMIT: Duration = Duration::from_secs(20);
/// How long to wait before a node is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// How long templates and pools may take to be known after a start.
const CATALOG_LIMIT: Duration = Duration::from_secs(15);
/// How often an order is given whose outcome is not known.
const MOST_ATTEMPTS: u32 = 5;
/// The epoch of an actor's first sleep when nothing went wrong: there is nothing older to delete.
const FIRST_SLEEP: Epoch = Epoch(2);
/// A slot that stays busy for so long is stopped.
const BUSY_LIMIT: Duration = Duration::from_secs(45);

/// An operation that this process owns.
pub(super) struct Operation {
    pub(super) engine: Arc<Engine>,
    pub(super) record: ActorRecord,
    pub(super) progress: Progress,
    pub(super) boot: bool,
    /// The store's clock when it began.
    pub(super) started_at: Timestamp,
    started: Instant,
    template: Option<Arc<ActorTemplate>>,
    /// Orders whose outcome was not known.
    attempts: u32,
    /// Where local snapshots of the actor may lie that are superseded.
    local_nodes: Vec<String>,
    /// The node that it ran on when the operation began.
    ran_on: Option<String>,
    /// Where the claimed worker is; outlives the record's assignment until the worker is released.
    held: Option<Assignment>,
}

impl Operation {
    pub(super) fn new(
        engine: Arc<Engine>,
        record: ActorRecord,
        progress: Progress,
        boot: bool,
        now: Timestamp,
    ) -> Self {
        let template = engine.catalog.template(&record.spec.template);
        let held = record.status.assignment.clone();
        let local_nodes = record.status.local.iter().map(|l| l.node.clone()).collect();
        Operation {
            engine,
            record,
            progress,
            boot,
            started_at: now,
            started: Instant::now(),
            template,
            attempts: 0,
            local_nodes,
            ran_on: held.as_ref().map(|a| a.node.clone()),
            held,
        }
    }

    /// The store's clock, as far as it can be told without asking.
    fn now(&self) -> Timestamp {
        self.started_at + self.started.elapsed()
    }

    fn epoch(&self) -> Epoch {
        self.record.header.epoch
    }

    pub(super) async fn carry_out(&mut self, step: Step) -> Result<(), DriveError> {
        match step {
            Step::FindClaim => self.find_claim().await,
            Step::Claim => self.claim().await,
            Step::Observe => self.observe().await,
            Step::Start => self.start().await,
            Step::Checkpoint => self.checkpoint().await,
            Step::Publish => self.publish().await,
            Step::FindSnapshot => self.find_snapshot().await,
            Step::Stop => self.stop().await,
            Step::AwaitNode => self.await_node().await,
            Step::Commit(outcome) => self.commit(outcome).await,
            Step::Release => self.release().await,
            Step::Abandon => self.abandon().await,
            Step::DeleteSnapshots => self.delete_snapshots().await,
            Step::Remove | Step::Done => Ok(()),
        }
    }

    fn fail(&mut self, reason: Reason, message: impl Into<String>) {
        self.progress
            .failure
            .get_or_insert((reason, message.into()));
    }

    // ------------------------------------------------------------ workers

    async fn find_claim(&mut self) -> Result<(), DriveError> {
        let workers = self.engine.store.list_workers(None).await?.items;
        let held = workers
            .into_iter()
            .find(|w| w.claim.as_ref().is_some_and(|c| c.actor == self.record.key));
        match held {
            Some(worker) => {
                self.assign(&worker);
                self.progress.inherited = true;
                self.progress.sandbox = Observed::Unknown;
            }
            None => {
                self.progress.claim = Observed::Absent;
                self.progress.sandbox = Observed::Absent;
            }
        }
        Ok(())
    }

    async fn claim(&mut self) -> Result<(), DriveError> {
        self.know_template().await;
        let Some(template) = self.template.clone() else {
            self.fail(
                Reason::TemplateNotFound,
                format!("ActorTemplate {} not found", self.record.spec.template),
            );
            return Ok(());
        };
        let source = match self.source(&template) {
            Ok(source) => source,
            Err((reason, message)) => {
                self.fail(reason, message);
                return Ok(());
            }
        };
        let catalog = self.engine.catalog.pools();
        let pools =
            match placement::pools(&self.record, &template, catalog.iter().map(AsRef::as_ref)) {
                Ok(pools) => pools,
                Err(e) => {
                    self.fail(Reason::PoolNotFound, e.to_string());
                    return Ok(());
                }
            };
        if pools.is_empty() {
            self.fail(
                Reason::PoolNotFound,
                format!(
                    "no WorkerPool matches ActorTemplate {}",
                    self.record.spec.template
                ),
            );
            return Ok(());
        }
        let holder = match &source {
            Source::Local { node, .. } => Some(node.clone()),
            Source::Durable { .. } | Source::Golden { .. } | Source::Boot => None,
        };
        match self.claim_of(&pools, holder.clone()).await {
            Ok(Some(worker)) => {
                self.assign(&worker);
                self.progress.sandbox = Observed::Absent;
            }
            Ok(None) if holder.is_some() => self.publish().await?,
            Ok(None) => self.fail(Reason::NoFreeWorkers, "no free workers available"),
            // An earlier operation has not released its worker yet.
            Err(StoreError::Conflict(_)) => self.progress.claim = Observed::Unknown,
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }

    /// Looks the template up; after a start the cache may have to fill first.
    async fn know_template(&mut self) {
        let catalog = self.engine.catalog.clone();
        let filled = async {
            while !catalog.is_synced() {
                tokio::time::sleep(ASK_AGAIN / 5).await;
            }
        };
        if self.template.is_none() && tokio::time::timeout(CATALOG_LIMIT, filled).await.is_ok() {
            self.template = catalog.template(&self.record.spec.template);
        }
    }

    /// A free worker of the first pool that has one; only on `node` if given.
    async fn claim_of(
        &self,
        pools: &[PoolKey],
        node: Option<String>,
    ) -> Result<Option<WorkerRecord>, StoreError> {
        let deadline = self.now() + self.engine.options.operation_lease;
        for pool in pools {
            let request = ClaimRequest {
                pool: pool.clone(),
                claim: Claim {
                    actor: self.record.key.clone(),
                    epoch: self.epoch(),
                    deadline,
                },
                require_node: node.is_some(),
                prefer_node: node.clone(),
            };
            if let Some(worker) = self.engine.store.claim(&request).await? {
                return Ok(Some(worker));
            }
        }
        Ok(None)
    }

    fn assign(&mut self, worker: &WorkerRecord) {
        self.progress.claim = Observed::Known(worker.key.clone());
        self.held = Some(Assignment {
            worker: worker.key.clone(),
            uid: worker.uid.clone(),
            pool: worker.pool.clone(),
            node: worker.node.clone(),
            ip: worker.ip.clone(),
            address: String::new(),
        });
        self.record.status.assignment = self.held.clone();
    }

    /// Where the claimed worker is. A plan that needs one without having one is a bug.
    fn held(&self) -> Result<Assignment, DriveError> {
        self.held.clone().ok_or(DriveError::InProgress)
    }

    async fn release(&mut self) -> Result<(), DriveError> {
        let held = self.held()?;
        self.engine
            .store
            .release(&held.pool, &held.worker, &self.record.key, self.epoch())
            .await?;
        self.let_go();
        Ok(())
    }

    async fn abandon(&mut self) -> Result<(), DriveError> {
        let held = self.held()?;
        let store = &self.engine.store;
        store
            .release(&held.pool, &held.worker, &self.record.key, self.epoch())
            .await?;
        store.remove_worker(&held.pool, &held.worker).await?;
        self.fail(
            Reason::NodeLost,
            format!("node {} of worker {} is lost", held.node, held.worker),
        );
        self.let_go();
        Ok(())
    }

    /// The claimed worker's slot does not exist any more: it ran nothing for us, and another worker is tried.
    async fn worker_gone(&mut self, message: &str) -> Result<(), DriveError> {
        let held = self.held()?;
        tracing::info!(worker = %held.worker, message, "claimed a worker that is gone; trying another");
        self.engine
            .store
            .remove_worker(&held.pool, &held.worker)
            .await?;
        self.let_go();
        Ok(())
    }

    fn let_go(&mut self) {
        self.progress.claim = Observed::Absent;
        self.progress.sandbox = Observed::Absent;
        self.progress.node_lost = false;
        self.progress.inherited = false;
        self.record.status.assignment = None;
        self.held = None;
    }

    // ------------------------------------------------------------ the node

    fn source(&self, template: &ActorTemplate) -> Result<Source, (Reason, String)> {
        if self.boot {
            Ok(Source::Boot)
        } else {
            placement::source(&self.record, template)
        }
    }

    async fn fence(&self) -> Result<wire::Fence, StoreError> {
        Ok(wire::Fence {
            epoch: self.epoch().0,
            incarnation: self.engine.incarnation().await?,
            not_after_ms: (self.now() + self.engine.options.operation_lease).0,
        })
    }

    fn prefix(&self) -> String {
        self.engine.snapshots_of(&self.record)
    }

    fn snapshot_ref(&self, id: SnapshotId, local: bool) -> wire::SnapshotRef {
        wire::SnapshotRef {
            id: id.to_string(),
            uri: self.prefix(),
            local,
        }
    }

    async fn address_of(&self, node: &str) -> Result<String, NodeError> {
        match self
            .engine
            .directory
            .address(&*self.engine.store, node)
            .await
        {
            Ok(Some(address)) => Ok(address),
            Ok(None) => Err(NodeError::Unreachable(Box::new(Status::unavailable(
                format!("node {node} is not known"),
            )))),
            Err(e) => Err(NodeError::Unreachable(Box::new(Status::unavailable(
                e.to_string(),
            )))),
        }
    }

    async fn observe(&mut self) -> Result<(), DriveError> {
        let assignment = self.held()?;
        let request = wire::ObserveRequest {
            target_ateom_uid: assignment.uid.clone(),
        };
        let answer = match self.address_of(&assignment.node).await {
            Ok(address) => {
                self.engine
                    .nodes
                    .observe(&address, request, SHORT_LIMIT)
                    .await
            }
            Err(e) => Err(e),
        };
        match answer {
            Ok(response) => {
                self.progress.sandbox =
                    sandbox_of(&response, &assignment.uid, &identity(&self.record));
                if let Observed::Known(Sandbox::Running { address, .. }) = &self.progress.sandbox
                    && let Some(a) = &mut self.record.status.assignment
                {
                    a.address = address.clone();
                }
            }
            // The slot is gone, and what it ran with it.
            Err(NodeError::NotFound { .. }) => self.progress.sandbox = Observed::Absent,
            Err(e) => {
                tracing::debug!(actor = %self.record.key, node = assignment.node, error = %e, "node cannot be asked");
                self.node_silent(&assignment.node).await?;
            }
        }
        Ok(())
    }

    /// A node does not answer: lost once its lease has lapsed, until then it is asked again.
    async fn node_silent(&mut self, node: &str) -> Result<(), DriveError> {
        self.progress.sandbox = Observed::Unknown;
        if self
            .engine
            .directory
            .is_lost(&*self.engine.store, node)
            .await?
        {
            self.progress.node_lost = true;
        } else {
            tokio::time::sleep(ASK_AGAIN * 5).await;
        }
        Ok(())
    }

    async fn await_node(&mut self) -> Result<(), DriveError> {
        if self.started.elapsed() > BUSY_LIMIT {
            self.fail(
                Reason::DeadlineExceeded,
                "the slot stayed busy for too long",
            );
            return self.stop().await;
        }
        tokio::time::sleep(ASK_AGAIN).await;
        self.progress.sandbox = Observed::Unknown;
        Ok(())
    }

    async fn start(&mut self) -> Result<(), DriveError> {
        let assignment = self.held()?;
        let (template, source) = match self.template.clone() {
            Some(template) => (template.clone(), self.source(&template)),
            None => return Err(DriveError::InProgress),
        };
        let order = source.and_then(|source| Ok((source, workload(&template, arch())?)));
        let (source, workload) = match order {
            Ok(order) => order,
            Err((reason, message)) => {
                self.fail(reason, message);
                return Ok(());
            }
        };
        let answer = match self.address_of(&assignment.node).await {
            Ok(address) => {
                let fence = self.fence().await?;
                self.order_start(&address, &assignment, source, workload, fence)
                    .await
            }
            Err(e) => Err(e),
        };
        match answer {
            Ok(address) => {
                self.progress.sandbox = Observed::Known(Sandbox::Running {
                    epoch: self.epoch(),
                    address: address.clone(),
                });
                if let Some(a) = &mut self.record.status.assignment {
                    a.address = address;
                }
            }
            Err(NodeError::NotFound { message }) => self.worker_gone(&message).await?,
            Err(e) => self.failed_by_node(e),
        }
        Ok(())
    }

    async fn order_start(
        &self,
        address: &str,
        assignment: &Assignment,
        source: Source,
        workload: wire::Workload,
        fence: wire::Fence,
    ) -> Result<String, NodeError> {
        let (target_ateom_uid, actor) = (assignment.uid.clone(), Some(identity(&self.record)));
        let (fence, workload) = (Some(fence), Some(workload));
        let snapshot = match source {
            Source::Boot => {
                let request = wire::RunRequest {
                    target_ateom_uid,
                    actor,
                    fence,
                    workload,
                };
                return Ok(self
                    .engine
                    .nodes
                    .run(address, request, RUN_LIMIT)
                    .await?
                    .address);
            }
            Source::Local { id, .. } => self.snapshot_ref(id, true),
            Source::Durable { id } => self.snapshot_ref(id, false),
            Source::Golden { id, uri } => wire::SnapshotRef {
                id: id.to_string(),
                uri,
                local: false,
            },
        };
        let request = wire::RestoreRequest {
            target_ateom_uid,
            actor,
            fence,
            workload,
            snapshot: Some(snapshot),
        };
        Ok(self
            .engine
            .nodes
            .restore(address, request, RESTORE_LIMIT)
            .await?
            .address)
    }

    /// Takes in why a node did not do what it was told. What its slot runs now has to be asked; while it is not known
    /// whether the order was carried out, it is given again.
    fn failed_by_node(&mut self, error: NodeError) {
        self.progress.sandbox = Observed::Unknown;
        self.attempts += 1;
        if error.outcome_unknown() && self.attempts < MOST_ATTEMPTS {
            tracing::warn!(actor = %self.record.key, %error, "a node's answer is missing");
            return;
        }
        if matches!(error, NodeError::Refused { .. }) {
            self.engine.forget_incarnation();
        }
        let (reason, message) = reason_of(error);
        tracing::warn!(actor = %self.record.key, %reason, message, "node failed a step");
        self.fail(reason, message);
    }

    async fn stop(&mut self) -> Result<(), DriveError> {
        let assignment = self.held()?;
        let request = wire::StopRequest {
            target_ateom_uid: assignment.uid.clone(),
            actor: Some(identity(&self.record)),
            fence: Some(self.fence().await?),
        };
        let answer = match self.address_of(&assignment.node).await {
            Ok(address) => self.engine.nodes.stop(&address, request, SHORT_LIMIT).await,
            Err(e) => Err(e),
        };
        match answer {
            Ok(_) | Err(NodeError::NotFound { .. }) => self.progress.sandbox = Observed::Absent,
            Err(e) => {
                tracing::warn!(actor = %self.record.key, error = %e, "stop failed");
                self.engine.forget_incarnation();
                self.node_silent(&assignment.node).await?;
            }
        }
        Ok(())
    }

    // ------------------------------------------------------------ snapshots

    async fn checkpoint(&mut self) -> Result<(), DriveError> {
        let assignment = self.held()?;
        let local = self.record.header.phase == Phase::Pausing;
        let request = wire::CheckpointRequest {
            target_ateom_uid: assignment.uid.clone(),
            actor: Some(identity(&self.record)),
            fence: Some(self.fence().await?),
            snapshot: Some(self.snapshot_ref(self.record.snapshot_in_progress(), local)),
        };
        let answer = match self.address_of(&assignment.node).await {
            Ok(address) => {
                self.engine
                    .nodes
                    .checkpoint(&address, request, CHECKPOINT_LIMIT)
                    .await
            }
            Err(e) => Err(e),
        };
        match answer {
            Ok(response) => self.saved(response.bytes, true),
            Err(e) => {
                self.failed_by_node(e);
                self.progress.saved = Observed::Unknown;
            }
        }
        Ok(())
    }

    fn saved(&mut self, bytes: u64, ended: bool) {
        let snapshot = SnapshotRecord {
            epoch: self.record.header.operation,
            bytes,
            time: self.now(),
        };
        self.progress.saved = Observed::Known(snapshot);
        if ended {
            self.progress.sandbox = Observed::Absent;
        }
    }

    /// Publishes the snapshot that is on a node only, and takes it as the durable one.
    async fn publish(&mut self) -> Result<(), DriveError> {
        let Some(local) = self.record.status.local.clone() else {
            return Ok(());
        };
        let id = self.record.snapshot_id(&local.snapshot);
        let request = wire::PublishRequest {
            actor: Some(identity(&self.record)),
            snapshot: Some(self.snapshot_ref(id, false)),
        };
        let answer = match self.address_of(&local.node).await {
            Ok(address) => {
                self.engine
                    .nodes
                    .publish(&address, request, CHECKPOINT_LIMIT)
                    .await
            }
            Err(e) => Err(e),
        };
        match answer {
            Ok(response) => {
                let snapshot = SnapshotRecord {
                    bytes: response.bytes,
                    ..local.snapshot
                };
                if self.record.header.phase == Phase::Suspending {
                    self.progress.saved = Observed::Known(snapshot);
                } else {
                    self.record.status.durable = Some(snapshot);
                    self.record.status.local = None;
                }
            }
            Err(e @ NodeError::Unreachable(_)) => {
                if self
                    .engine
                    .directory
                    .is_lost(&*self.engine.store, &local.node)
                    .await?
                {
                    self.local_lost();
                } else {
                    self.fail(Reason::NodeUnreachable, e.to_string());
                }
            }
            Err(e) => {
                let (reason, message) = reason_of(e);
                self.fail(reason, message);
            }
        }
        Ok(())
    }

    /// The node that holds the newest snapshot is lost: back to the one before, and say so.
    fn local_lost(&mut self) {
        if self.record.header.phase == Phase::Suspending {
            self.progress.node_lost = true;
            return;
        }
        let status = &mut self.record.status;
        status.local = None;
        status.rolled_back = Some(RolledBack {
            reason: Reason::NodeLost,
            time: self.started_at + self.started.elapsed(),
            to: status.durable.as_ref().map(|d| d.time),
        });
    }

    async fn find_snapshot(&mut self) -> Result<(), DriveError> {
        let local = self.record.header.phase == Phase::Pausing;
        let node = self
            .record
            .status
            .assignment
            .as_ref()
            .map(|a| a.node.clone())
            .unwrap_or_default();
        let directory = &self.engine.directory;
        if local && directory.is_lost(&*self.engine.store, &node).await? {
            self.progress.node_lost = true;
            self.progress.saved = Observed::Absent;
            return Ok(());
        }
        // Only its own node knows of a local snapshot.
        let address = if local {
            directory.address(&*self.engine.store, &node).await?
        } else {
            directory.any(&*self.engine.store, &node).await?
        };
        let Some(address) = address else {
            tokio::time::sleep(ASK_AGAIN * 5).await;
            return Ok(());
        };
        let snapshot = self.snapshot_ref(self.record.snapshot_in_progress(), local);
        let request = wire::DescribeSnapshotRequest {
            snapshot: Some(snapshot),
        };
        match self
            .engine
            .nodes
            .describe_snapshot(&address, request, SHORT_LIMIT)
            .await
        {
            Ok(found) if found.exists => self.saved(found.bytes, false),
            Ok(_) => self.progress.saved = Observed::Absent,
            Err(e) => {
                tracing::warn!(actor = %self.record.key, error = %e, "cannot look for the snapshot");
                tokio::time::sleep(ASK_AGAIN * 5).await;
            }
        }
        Ok(())
    }

    /// Only what has run was ever saved, be it by an attempt that no record tells of.
    fn may_have_snapshots(&self) -> bool {
        self.record.status.last_activity != Timestamp::default()
    }

    /// Deletes what nothing points to any more. A deletion goes on only when that has been done.
    async fn delete_snapshots(&mut self) -> Result<(), DriveError> {
        let deleting = self.record.header.desired == Desired::Deleted;
        let s = &self.record.status;
        let own = s
            .durable
            .iter()
            .chain(s.local.as_ref().map(|l| &l.snapshot));
        let keep: Vec<String> = own
            .filter(|_| !deleting)
            .map(|s| self.record.snapshot_id(s).to_string())
            .collect();
        let request = wire::DeleteSnapshotsRequest {
            actor: Some(identity(&self.record)),
            uri: self.prefix(),
            before_epoch: self.epoch().0 + u64::from(deleting),
            keep,
        };
        self.progress.superseded = false;
        let mut done = false;
        for node in self.nodes_with_snapshots() {
            match self.delete_on(&node, &request).await {
                Ok(()) => done = true,
                Err(e) => {
                    tracing::warn!(actor = %self.record.key, node, error = %e, "snapshots could not be deleted");
                    let lost = deleting
                        && self
                            .engine
                            .directory
                            .is_lost(&*self.engine.store, &node)
                            .await?;
                    if deleting && !lost {
                        return Err(DriveError::InProgress);
                    }
                }
            }
        }
        if done {
            return Ok(());
        }
        let directory = &self.engine.directory;
        let asked = match directory.any(&*self.engine.store, "").await? {
            Some(address) => {
                let nodes = &self.engine.nodes;
                nodes
                    .delete_snapshots(&address, request, SHORT_LIMIT)
                    .await
                    .is_ok()
            }
            None => false,
        };
        if asked || !deleting || !self.may_have_snapshots() {
            Ok(())
        } else {
            Err(DriveError::InProgress)
        }
    }

    async fn delete_on(
        &self,
        node: &str,
        request: &wire::DeleteSnapshotsRequest,
    ) -> Result<(), NodeError> {
        let address = self.address_of(node).await?;
        let nodes = &self.engine.nodes;
        nodes
            .delete_snapshots(&address, request.clone(), SHORT_LIMIT)
            .await
            .map(|_| ())
    }

    /// The nodes that have or had a local snapshot of the actor, else the one that it ran on.
    fn nodes_with_snapshots(&self) -> Vec<String> {
        let mut nodes = self.local_nodes.clone();
        nodes.extend(self.record.status.local.iter().map(|l| l.node.clone()));
        if nodes.is_empty() {
            nodes.extend(self.ran_on.clone());
        }
        nodes.sort();
        nodes.dedup();
        nodes
    }

    // ------------------------------------------------------------ the record

    async fn commit(&mut self, outcome: Outcome) -> Result<(), DriveError> {
        let mut next = conclude(&self.record, &self.progress, &outcome, self.now());
        next.status.last_duration_micros =
            u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let durability = match outcome {
            Outcome::Running | Outcome::GoesOn | Outcome::AsBefore => Durability::Memory,
            Outcome::Suspended(_) | Outcome::Paused(_) | Outcome::RolledBack(_) => {
                Durability::Fsync
            }
        };
        self.record = self
            .engine
            .store
            .commit(&next, self.engine.owner, durability)
            .await?;
        tracing::info!(actor = %self.record.key, epoch = %self.record.header.epoch, phase = %self.record.header.phase,
            micros = self.record.status.last_duration_micros, "transition");
        // Also what no record ever pointed to: an attempt that broke off may have published something.
        self.progress.superseded = self.epoch() > FIRST_SLEEP
            && matches!(outcome, Outcome::Suspended(_) | Outcome::Paused(_));
        if matches!(
            outcome,
            Outcome::Running | Outcome::Suspended(_) | Outcome::Paused(_)
        ) {
            self.progress.failure = None;
        }
        Ok(())
    }

    pub(super) async fn remove(&mut self) -> Result<(), DriveError> {
        self.engine
            .store
            .remove_actor(&self.record.key, self.epoch(), self.engine.owner)
            .await?;
        tracing::info!(actor = %self.record.key, "deleted");
        Ok(())
    }
}

/// Why a node did not do what it was told, for the record.
fn reason_of(error: NodeError) -> (Reason, String) {
    match error {
        NodeError::Failed { reason, message } => (reason, message),
        NodeError::Refused { message } | NodeError::NotFound { message } => {
            (Reason::SandboxLost, message)
        }
        NodeError::TimedOut => (
            Reason::DeadlineExceeded,
            "the node did not answer in time".to_owned(),
        ),
        e @ (NodeError::Unreachable(_) | NodeError::Unexpected(_) | NodeError::Setup(_)) => {
            (Reason::NodeUnreachable, e.to_string())
        }
    }
}

/// What a slot runs for an actor, from what its node says.
pub(super) fn sandbox_of(
    response: &wire::ObserveResponse,
    uid: &str,
    actor: &wire::ActorIdentity,
) -> Observed<Sandbox> {
    use wire::slot::Phase as P;
    let Some(slot) = response.slots.iter().find(|s| s.uid == uid) else {
        return Observed::Absent;
    };
    if slot.actor.as_ref().is_none_or(|a| a.uid != actor.uid) {
        return Observed::Absent;
    }
    let epoch = Epoch(slot.epoch);
    match slot.phase() {
        P::Free | P::Draining => Observed::Absent,
        P::Running => Observed::Known(Sandbox::Running {
            epoch,
            address: slot.address.clone(),
        }),
        P::Exited => Observed::Known(Sandbox::Exited),
        P::Busy | P::Dirty => Observed::Known(Sandbox::Busy { epoch }),
        P::Unspecified => Observed::Unknown,
    }
}

/// The architecture of the machines that run sandboxes, in Kubernetes' words.
fn arch() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    }
}
