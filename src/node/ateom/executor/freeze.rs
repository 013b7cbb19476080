//! A sandbox stands still while the node's lease with the control plane has lapsed, which may have given its actor to
//! another node. The node agent says so; when that is gone too, the executor knows from the lease that it was told last.

use super::{Error, Executor, Order};
use crate::failpoint;
use crate::sandbox::Observed;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How often freezing is tried when the lease has lapsed; then the sandbox is ended, or else the executor with it.
const FREEZE_ATTEMPTS: u32 = 3;
/// How long an attempt may take, and that end.
const FREEZE_LIMIT: Duration = Duration::from_secs(5);
/// Pause between two attempts.
const FREEZE_PAUSE: Duration = Duration::from_millis(200);

impl Executor {
    /// Takes in until when the node's lease holds (boot time). What is frozen stays so until it is thawed.
    pub fn renew_lease(&self, until: Duration) {
        self.lease.set(until);
    }

    /// Lets the sandbox stand still and refuses new connections to it. Established ones wait.
    pub async fn freeze(&self, epoch: u64) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        self.assigned(epoch)?;
        self.stand_still().await
    }

    /// Lets a frozen sandbox go on and opens its gate.
    pub async fn thaw(&self, epoch: u64) -> Result<(), Error> {
        let _turn = self.turn.lock().await;
        let order = self.assigned(epoch)?;
        if self.lease.has_passed() {
            return Err(Error::Lapsed);
        }
        if !self.is_frozen() {
            return Ok(());
        }
        failpoint::crash("executor.thaw.before");
        // Should it not go on now, it is frozen still, and thawed again: with its gate open or not.
        self.open(&order)?;
        self.sandbox.thaw().await?;
        self.frozen.store(false, Ordering::SeqCst);
        failpoint::crash("executor.thaw.after");
        Ok(())
    }

    /// Whether the sandbox stands still because it is to.
    pub(super) fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::SeqCst)
    }

    fn assigned(&self, epoch: u64) -> Result<Arc<Order>, Error> {
        let reason = "nothing runs";
        let order = self.current().ok_or(Error::Fenced { epoch, reason })?;
        if order.epoch != epoch {
            let reason = "another one runs";
            return Err(Error::Fenced { epoch, reason });
        }
        Ok(order)
    }

    /// The caller has the turn.
    async fn stand_still(&self) -> Result<(), Error> {
        failpoint::crash("executor.freeze.before");
        // First what may not fail: a sandbox whose gate cannot be closed must stand still all the same.
        let closed = self.network.close();
        self.sandbox.freeze().await?;
        self.frozen.store(true, Ordering::SeqCst);
        failpoint::crash("executor.freeze.after");
        Ok(closed?)
    }

    /// Runs for ever: freezes what runs while the lease has lapsed.
    pub(super) async fn watch_lease(&self) {
        let mut assignments = self.assignment.subscribe();
        loop {
            self.lease.passed().await;
            assignments.mark_unchanged();
            self.freeze_lapsed().await;
            tokio::select! {
                () = self.lease.extended() => {}
                // Fails only when `self` is gone.
                _ = assignments.changed() => {}
            }
        }
    }

    async fn freeze_lapsed(&self) {
        let turn = self.turn.lock().await;
        let Some(order) = self.current().filter(|_| self.lease.has_passed()) else {
            return;
        };
        let epoch = order.epoch;
        for _ in 0..FREEZE_ATTEMPTS {
            match timeout(FREEZE_LIMIT, self.stop_running()).await {
                Ok(Ok(())) => {
                    return tracing::warn!(epoch, "the node's lease has lapsed; nothing runs");
                }
                Ok(Err(error)) => tracing::warn!(epoch, %error, "cannot freeze the sandbox"),
                Err(_) => tracing::warn!(epoch, "the sandbox does not freeze in time"),
            }
            sleep(FREEZE_PAUSE).await;
        }
        tracing::error!(
            epoch,
            "the sandbox does not freeze although the lease has lapsed; ending it"
        );
        if !matches!(
            timeout(FREEZE_LIMIT, self.tear_down(&turn, true)).await,
            Ok(Ok(_))
        ) {
            tracing::error!(epoch, "the sandbox does not end; ending with it");
            std::process::exit(1);
        }
    }

    /// What runs, or may, stands still afterwards.
    async fn stop_running(&self) -> Result<(), Error> {
        match self.sandbox.observe().await {
            Ok(Observed::Absent | Observed::Frozen | Observed::Exited { .. }) => Ok(()),
            Ok(Observed::Running) | Err(_) => self.stand_still().await,
        }
    }
}
