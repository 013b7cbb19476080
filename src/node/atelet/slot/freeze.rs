//! What the node's lease asks of a slot: to stand still while it has lapsed, and to go on afterwards.

use super::super::error::Error;
use super::super::lease::LAPSED;
use super::super::outcome::Failure;
use super::super::provider::Executor;
use super::op::Kind;
use super::{Slot, State};
use crate::api::Epoch;
use crate::lifecycle::Observed;
use crate::lifecycle::slot::{Lease, Sandbox};
use crate::proto::atenode::{FreezeWorkloadRequest, RenewLeaseRequest, ThawWorkloadRequest};
use std::time::Duration;
use tokio::time::timeout;
use tonic::Status;

/// How long an executor may take to freeze a sandbox; then it is ended with its executor.
const FREEZE_LIMIT: Duration = Duration::from_secs(10);
/// How long it may take to thaw it.
const THAW_LIMIT: Duration = Duration::from_secs(30);
/// How long it may take to hear of a renewed lease.
const RENEW_LIMIT: Duration = Duration::from_secs(2);

impl Slot {
    /// The node's lease has lapsed, or holds again.
    pub fn lease_changed(&self) {
        self.give_up_start(&self.state());
        self.changed();
    }

    /// What is not up when the lease has lapsed does not come up.
    pub(super) fn give_up_start(&self, state: &State) {
        if self.node.lease.state() == Lease::Lapsed {
            state.cancel_start(LAPSED);
        }
    }

    /// Gives a start up that is under way: nobody is going to wait for it.
    pub fn cancel_start(&self, why: &str) {
        self.state().cancel_start(why);
    }

    /// Tells the executor until when the node's lease holds. It freezes by itself when it hears no more of us.
    pub async fn renew_lease(&self) {
        let executor = self.state().executor.clone();
        let (Some(executor), Some(until)) = (executor, self.node.lease.until()) else {
            return;
        };
        let mut client = executor.client;
        let request = RenewLeaseRequest {
            until_boottime_ms: u64::try_from(until.as_millis()).unwrap_or(u64::MAX),
        };
        if !matches!(
            timeout(RENEW_LIMIT, client.renew_lease(request)).await,
            Ok(Ok(_))
        ) {
            tracing::debug!(
                slot = self.place.name(),
                "the executor does not hear of the lease"
            );
        }
    }

    /// Lets the sandbox stand still. One that does not is ended with its executor: somebody else may have its actor.
    pub(super) async fn freeze(&self) {
        let Some((executor, epoch)) = self.executing() else {
            return;
        };
        let mut client = executor.client;
        let request = FreezeWorkloadRequest { epoch: epoch.0 };
        match answer(timeout(FREEZE_LIMIT, client.freeze_workload(request)).await) {
            Ok(_) => {
                tracing::warn!(slot = self.place.name(), "the sandbox is frozen");
                self.learn(Observed::Known(Sandbox::Frozen { epoch }));
            }
            Err(status) => {
                tracing::error!(slot = self.place.name(), %status, "a sandbox could not be frozen");
                self.learn(Observed::Known(match self.ask().await {
                    Some(still @ (Sandbox::Clean | Sandbox::Frozen { .. } | Sandbox::Exited)) => {
                        still
                    }
                    // Busy with it, for as long as that takes, is as good as running.
                    None | Some(Sandbox::Running { .. } | Sandbox::Busy | Sandbox::Dirty) => {
                        Sandbox::Dirty
                    }
                }));
            }
        }
    }

    /// Lets the sandbox go on.
    pub(super) async fn thaw(&self) -> Result<(), Error> {
        let Some((executor, epoch)) = self.executing() else {
            return Ok(());
        };
        // Its own watch would freeze it again.
        self.renew_lease().await;
        let mut client = executor.client;
        let request = ThawWorkloadRequest { epoch: epoch.0 };
        match answer(timeout(THAW_LIMIT, client.thaw_workload(request)).await) {
            Ok(_) => {
                tracing::info!(slot = self.place.name(), "the sandbox goes on");
                self.learn(Observed::Known(Sandbox::Running { epoch }));
                Ok(())
            }
            Err(status) => {
                self.look().await;
                Err(Error::Thaw(Box::new(status)))
            }
        }
    }

    /// The executor, and the epoch that it is to run.
    fn executing(&self) -> Option<(Executor, Epoch)> {
        let state = self.state();
        let epoch = state.desired.assignment.as_ref()?.epoch;
        Some((state.executor.clone()?, epoch))
    }
}

impl State {
    fn cancel_start(&self, why: &str) {
        if let Some(op) = self.op_of(Kind::Start) {
            op.fail(Failure::Refused(why.to_owned()));
            op.cancel.cancel();
        }
    }
}

fn answer<T>(answer: Result<Result<T, Status>, tokio::time::error::Elapsed>) -> Result<T, Status> {
    answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("the executor does not answer")))
}
