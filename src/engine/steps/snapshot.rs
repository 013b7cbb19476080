//! Steps about snapshots: save, publish, find, delete.

use super::node::reason_of;
use super::{ASK_AGAIN, CHECKPOINT_LIMIT, Operation, SHORT_LIMIT, busy_limit};
use crate::api::record::{Desired, RolledBack, SnapshotRecord};
use crate::api::{Phase, Reason, SnapshotId, Timestamp};
use crate::engine::DriveError;
use crate::engine::workload::identity;
use crate::lifecycle::{Observed, runtimes};
use crate::proto::atenode as wire;
use crate::rpc::nodes::NodeError;

impl Operation {
    pub(super) async fn checkpoint(&mut self) -> Result<(), DriveError> {
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
            Ok(response) => {
                self.saved(response.bytes, &response.runtime, true);
                self.progress.kept = !local;
            }
            Err(e) => {
                self.failed_by_node(e);
                self.progress.saved = Observed::Unknown;
            }
        }
        Ok(())
    }

    pub(super) fn saved(&mut self, bytes: u64, runtime: &str, ended: bool) {
        let snapshot = SnapshotRecord {
            epoch: self.record.header.operation,
            bytes,
            time: self.now(),
            runtime: runtime.parse().ok(),
        };
        self.progress.saved = Observed::Known(snapshot);
        if ended {
            self.progress.sandbox = Observed::Absent;
        }
    }

    /// Publishes the snapshot that is on a node only, and takes it as the durable one.
    pub(super) async fn publish(&mut self) -> Result<(), DriveError> {
        let Some(local) = self.record.status.local.clone() else {
            return Ok(());
        };
        self.progress.cut_short = false;
        let id = self.record.snapshot_id(&local.snapshot);
        let request = wire::PublishRequest {
            actor: Some(identity(&self.record)),
            fence: Some(self.fence().await?),
            snapshot: Some(self.snapshot_ref(id, false)),
            like: self.published_like(&local.snapshot),
        };
        // Who asks again joins what is under way; asking often shows sooner that a node is lost.
        let limit = match self.record.header.phase {
            Phase::Suspending => SHORT_LIMIT,
            Phase::Suspended
            | Phase::Resuming
            | Phase::Running
            | Phase::Pausing
            | Phase::Paused => CHECKPOINT_LIMIT,
        };
        let answer = match self.address_of(&local.node).await {
            Ok(address) => self.engine.nodes.publish(&address, request, limit).await,
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
            Err(e) if e.outcome_unknown() => self.not_published(&local.node, e).await?,
            Err(e) => {
                let (reason, message) = reason_of(e);
                self.fail(reason, message);
            }
        }
        Ok(())
    }

    /// What is published already and has much in common with a snapshot: the actor's latest, which stays until the new one is committed;
    /// for its first one the golden snapshot of the same build.
    fn published_like(&self, snapshot: &SnapshotRecord) -> Vec<wire::SnapshotRef> {
        let record = &self.record;
        let own = record.status.durable.as_ref();
        let own = own.filter(|own| own.epoch != snapshot.epoch);
        let own = own.map(|own| self.snapshot_ref(record.snapshot_id(own), false));
        let template = self.engine.catalog.template(&record.spec.template);
        let golden = template.as_ref().and_then(|template| {
            let golden = runtimes::golden(template, snapshot.runtime)?;
            let id = golden.id.parse::<SnapshotId>().ok()?;
            (id.actor != record.status.uid).then(|| wire::SnapshotRef {
                id: id.to_string(),
                uri: golden.uri.clone(),
                local: false,
            })
        });
        own.into_iter().chain(golden).collect()
    }

    /// A node did not say whether it published. A suspend asks again until the node is lost, for it may just have been
    /// restarted; a wake does not wait.
    async fn not_published(&mut self, node: &str, error: NodeError) -> Result<(), DriveError> {
        let (directory, phase) = (&self.engine.directory, self.record.header.phase);
        if directory.is_lost(&*self.engine.store, node).await? {
            self.local_lost();
        } else if phase == Phase::Suspending && self.started.elapsed() < busy_limit(phase, false) {
            tracing::debug!(actor = %self.record.key, node, %error, "asked again to publish");
            tokio::time::sleep(ASK_AGAIN * 5).await;
        } else {
            let (reason, message) = reason_of(error);
            self.fail(reason, message);
        }
        Ok(())
    }

    /// The node that holds the newest snapshot is lost: back to the one before, and say so.
    pub(super) fn local_lost(&mut self) {
        if self.record.header.phase == Phase::Suspending {
            self.progress.node_lost = true;
            return;
        }
        let status = &mut self.record.status;
        status.local = None;
        status.rolled_back = Some(RolledBack {
            reason: Reason::NodeLost,
            message: String::new(),
            time: self.started_at + self.started.elapsed(),
            to: status.durable.as_ref().map(|d| d.time),
        });
    }

    pub(super) async fn find_snapshot(&mut self) -> Result<(), DriveError> {
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
            Ok(found) if found.exists => self.saved(found.bytes, &found.runtime, false),
            Ok(_) if local => self.progress.saved = Observed::Absent,
            Ok(_) => self.find_kept(&node, true).await?,
            Err(e) => {
                tracing::warn!(actor = %self.record.key, error = %e, "cannot look for the snapshot");
                if !local {
                    self.find_kept(&node, false).await?;
                }
            }
        }
        if self.progress.saved == Observed::Unknown {
            tokio::time::sleep(ASK_AGAIN * 5).await;
        }
        Ok(())
    }

    /// Looks whether the node that was to publish the snapshot still has it. `unpublished`: it is the only one, if so.
    async fn find_kept(&mut self, node: &str, unpublished: bool) -> Result<(), DriveError> {
        let request = wire::DescribeSnapshotRequest {
            snapshot: Some(self.snapshot_ref(self.record.snapshot_in_progress(), true)),
        };
        let answer = match self.address_of(node).await {
            Ok(address) => {
                let nodes = &self.engine.nodes;
                nodes
                    .describe_snapshot(&address, request, SHORT_LIMIT)
                    .await
            }
            Err(e) => Err(e),
        };
        match answer {
            Ok(found) if found.exists => {
                self.saved(found.bytes, &found.runtime, false);
                self.progress.kept = true;
            }
            Ok(_) if unpublished => self.progress.saved = Observed::Absent,
            Ok(_) => {}
            Err(e) => {
                tracing::warn!(actor = %self.record.key, node, error = %e, "cannot look for the snapshot on its node");
                let directory = &self.engine.directory;
                if unpublished && directory.is_lost(&*self.engine.store, node).await? {
                    self.progress.saved = Observed::Absent;
                }
            }
        }
        Ok(())
    }

    /// Only what has run was ever saved, be it by an attempt that no record tells of.
    pub(super) fn may_have_snapshots(&self) -> bool {
        self.record.status.last_activity != Timestamp::default()
    }

    /// Deletes what nothing points to any more. A deletion goes on only when that has been done.
    pub(super) async fn delete_snapshots(&mut self) -> Result<(), DriveError> {
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

    pub(super) async fn delete_on(
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
    pub(super) fn nodes_with_snapshots(&self) -> Vec<String> {
        let mut nodes = self.local_nodes.clone();
        nodes.extend(self.record.status.local.iter().map(|l| l.node.clone()));
        if nodes.is_empty() {
            nodes.extend(self.ran_on.clone());
        }
        nodes.sort();
        nodes.dedup();
        nodes
    }
}
