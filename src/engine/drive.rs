//! One operation: begin, the steps that `plan` says, the end.

use super::progress::Guard;
use super::steps::Operation;
use super::{Call, DriveError, Engine, metrics};
use crate::api::record::{ActorRecord, Desired, OperatingMode, Phase};
use crate::api::{ActorKey, Reason};
use crate::failpoint;
use crate::lifecycle::Observed;
use crate::lifecycle::actor::{Progress, Step, plan};
use crate::lifecycle::edges::Intent;
use crate::store::{Begin, Begun, StoreError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

/// How often the store is asked about an operation that runs in another process.
const JOIN_POLL: Duration = Duration::from_millis(50);
/// No operation takes more steps; a plan that goes in circles is a bug and ends here.
const MOST_STEPS: usize = 10_000;

/// How an operation ended.
struct Ended {
    /// The record; `None` when it was removed.
    record: Option<ActorRecord>,
    /// Why it did not get where it was to go.
    failure: Option<(Reason, String)>,
}

impl Ended {
    /// An operation of somebody else ended with this record.
    fn at(record: ActorRecord) -> Ended {
        let status = &record.status;
        let failure = status.failure.as_ref();
        let loss = status.rolled_back.as_ref();
        Ended {
            failure: failure
                .map(|f| (f.reason, f.message.clone()))
                .or_else(|| loss.map(|l| (l.reason, l.message.clone()))),
            record: Some(record),
        }
    }
}

impl Engine {
    /// Brings an actor where `intent` wants it, joining what is under way in the same direction.
    pub(super) async fn reach(
        self: &Arc<Self>,
        key: &ActorKey,
        intent: Intent,
        call: Call,
    ) -> Result<ActorRecord, DriveError> {
        loop {
            match self
                .store
                .begin(self.begin(key, intent, call.boot, call.only))
                .await
            {
                Err(StoreError::NotFound(_)) => return Err(DriveError::NotFound(key.clone())),
                Err(e) => return Err(e.into()),
                Ok(Begun::Refused { record, .. }) => return refused(intent, record),
                Ok(Begun::Held { record, .. }) => {
                    let (phase, desired) = (record.header.phase, record.header.desired);
                    if !intent.joins(phase, desired) {
                        return Err(DriveError::InProgress);
                    }
                    if let Some(outcome) = self
                        .rested(key, call)
                        .await?
                        .and_then(|record| outcome(intent, key, Ended::at(record)))
                    {
                        return outcome;
                    }
                }
                Ok(Begun::Owned {
                    record,
                    before,
                    now,
                }) => {
                    let operation = Operation::begin(self.clone(), record, before, intent, now);
                    let ended = timeout_at(call.deadline, operation.spawn())
                        .await
                        .map_err(|_| DriveError::DeadlineExceeded)?;
                    let ended = match ended {
                        Err(DriveError::InProgress)
                            if intent == Intent::Want(Desired::Suspended) =>
                        {
                            return self.cut_short(key, intent, call).await;
                        }
                        ended => ended?,
                    };
                    if let Some(outcome) = outcome(intent, key, ended) {
                        return outcome;
                    }
                }
            }
        }
    }

    /// Starts what brings an actor where `intent` wants it, and returns the record as it is then.
    pub(super) async fn begin_only(
        self: &Arc<Self>,
        key: &ActorKey,
        intent: Intent,
        boot: bool,
    ) -> Result<ActorRecord, DriveError> {
        match self.store.begin(self.begin(key, intent, boot, None)).await {
            Err(StoreError::NotFound(_)) => Err(DriveError::NotFound(key.clone())),
            Err(e) => Err(e.into()),
            Ok(Begun::Refused { record, .. }) => refused(intent, record),
            Ok(Begun::Held { record, .. })
                if intent.joins(record.header.phase, record.header.desired) =>
            {
                Ok(record)
            }
            Ok(Begun::Held { .. }) => Err(DriveError::InProgress),
            Ok(Begun::Owned {
                record,
                before,
                now,
            }) => {
                let operation = Operation::begin(self.clone(), record.clone(), before, intent, now);
                drop(operation.spawn());
                Ok(record)
            }
        }
    }

    fn begin(&self, key: &ActorKey, intent: Intent, boot: bool, only: Option<Uuid>) -> Begin {
        Begin {
            key: key.clone(),
            edges: intent.edges(),
            desired: intent.desired(),
            owner: self.owner,
            lease: self.options.operation_lease,
            boot,
            uid: only,
        }
    }

    /// What the caller is told whose operation another one took over: where that leads.
    async fn cut_short(
        &self,
        key: &ActorKey,
        intent: Intent,
        call: Call,
    ) -> Result<ActorRecord, DriveError> {
        loop {
            match self.rested(key, call).await? {
                None => {}
                Some(record) if intent.is_met(record.header.phase) => return Ok(record),
                Some(_) => return Err(DriveError::InProgress),
            }
        }
    }

    /// Waits for an operation of somebody else: the record at rest. `None`: it is not yet, or its lease expired.
    async fn rested(&self, key: &ActorKey, call: Call) -> Result<Option<ActorRecord>, DriveError> {
        let late = || Err(DriveError::DeadlineExceeded);
        match timeout_at(call.deadline, self.running.ended(key)).await {
            Err(_) => return late(),
            Ok(true) => {}
            Ok(false) if Instant::now() + JOIN_POLL > call.deadline => return late(),
            Ok(false) => sleep_until(Instant::now() + JOIN_POLL).await,
        }
        match self.store.get_actor(key).await {
            Err(StoreError::NotFound(_)) => Err(DriveError::NotFound(key.clone())),
            Err(e) => Err(e.into()),
            Ok(record) if record.header.phase.is_transitional() => Ok(None),
            Ok(record) => Ok(Some(record)),
        }
    }
}

fn refused(intent: Intent, record: ActorRecord) -> Result<ActorRecord, DriveError> {
    let phase = record.header.phase;
    if intent.is_met(phase) {
        return Ok(record);
    }
    Err(DriveError::WrongPhase {
        key: record.key,
        phase,
        why: "it must be running",
    })
}

/// What the caller is told; `None` when the operation ended somewhere else than the caller wants, without failing.
fn outcome(
    intent: Intent,
    key: &ActorKey,
    ended: Ended,
) -> Option<Result<ActorRecord, DriveError>> {
    match (ended.record, ended.failure) {
        (None, _) if intent == Intent::Want(Desired::Deleted) => Some(Ok(ActorRecord::default())),
        (None, _) => Some(Err(DriveError::NotFound(key.clone()))),
        // Asleep, but without what it did last.
        (Some(_), Some((reason, message))) if intent.saves() => {
            Some(Err(DriveError::Failed { reason, message }))
        }
        (Some(record), _) if intent.is_met(record.header.phase) => Some(Ok(record)),
        (Some(_), Some((reason, message))) => Some(Err(DriveError::Failed { reason, message })),
        (Some(_), None) => None,
    }
}

/// Those who wait for an operation of this process: who asked for it, and who joined.
struct Waiting {
    tell: oneshot::Sender<Ended>,
    _guard: Guard,
}

impl Operation {
    fn begin(
        engine: Arc<Engine>,
        record: ActorRecord,
        before: Phase,
        intent: Intent,
        now: crate::api::Timestamp,
    ) -> Self {
        let fresh = record.header.operation == record.header.epoch;
        let mut progress = if fresh {
            Progress::fresh(&record, before)
        } else {
            Progress::taken_over(&record)
        };
        if fresh && intent == Intent::Lost {
            progress.sandbox = Observed::Unknown;
        }
        progress.superseded =
            record.header.desired == Desired::Deleted && record.header.epoch.0 > 1;
        let mut operation = Operation::new(engine, record, progress, now);
        operation.hold_back(fresh);
        operation
    }

    /// What forbids a resume before it has begun.
    fn hold_back(&mut self, fresh: bool) {
        if !fresh || self.record.header.phase != Phase::Resuming {
            return;
        }
        if self.record.spec.mode == OperatingMode::Suspended {
            let message = "spec.operatingMode is Suspended: the actor does not wake".to_owned();
            self.progress.failure = Some((Reason::OperatingModeSuspended, message));
            self.progress.held_back = true;
        } else if let Some(f) = self
            .record
            .status
            .failure
            .as_ref()
            .filter(|f| f.retry_at > self.started_at && !self.record.header.boot)
        {
            self.progress.failure = Some((
                f.reason,
                format!("{} (next attempt at {})", f.message, f.retry_at),
            ));
            self.progress.held_back = true;
        }
    }

    /// Runs to the end, also when nobody waits for it. What the future yields does not wait for what is only cleared away.
    fn spawn(self) -> impl Future<Output = Result<Ended, DriveError>> {
        let (tell, told) = oneshot::channel();
        let run = tokio::spawn(self.run(tell));
        async move {
            match told.await {
                Ok(ended) => Ok(ended),
                Err(_) => run.await.map_err(|_| DriveError::InProgress)?,
            }
        }
    }

    /// Dropped leases and lost replies end it early; recovery goes on from the record then.
    async fn run(mut self, tell: oneshot::Sender<Ended>) -> Result<Ended, DriveError> {
        let waiting = Waiting {
            tell,
            _guard: self.engine.running.enter(&self.record.key),
        };
        let fenced = CancellationToken::new();
        let _renewal = self.keep_lease(fenced.clone());
        let ended = self.walk(&fenced, waiting).await;
        if let Err(e) = &ended {
            tracing::warn!(actor = %self.record.key, epoch = %self.record.header.epoch, error = %e, "operation broke off");
        }
        ended
    }

    async fn walk(
        &mut self,
        fenced: &CancellationToken,
        waiting: Waiting,
    ) -> Result<Ended, DriveError> {
        let mut waiting = Some(waiting);
        for _ in 0..MOST_STEPS {
            if fenced.is_cancelled() && self.record.header.phase.is_transitional() {
                return Err(DriveError::InProgress);
            }
            let step = plan(&self.record, &self.progress);
            tracing::debug!(actor = %self.record.key, epoch = %self.record.header.epoch, ?step, "step");
            let name: &'static str = (&step).into();
            failpoint::crash(&format!("engine.{name}.before"));
            match step {
                Step::Done => {
                    self.tell_timings();
                    return Ok(self.ended());
                }
                Step::Remove => {
                    self.remove().await?;
                    return Ok(Ended {
                        record: None,
                        failure: None,
                    });
                }
                step => {
                    if step == Step::DeleteSnapshots
                        && !self.record.header.phase.is_transitional()
                        && let Some(waiting) = waiting.take()
                    {
                        // Whoever asked may have gone away.
                        let _ = waiting.tell.send(self.ended());
                    }
                    self.timed(name, step).await?;
                }
            }
            failpoint::crash(&format!("engine.{name}.after"));
        }
        tracing::error!(actor = %self.record.key, record = ?self.record, progress = ?self.progress, "an operation goes in circles");
        Err(DriveError::InProgress)
    }

    fn ended(&self) -> Ended {
        Ended {
            record: Some(self.record.clone()),
            failure: self.progress.failure.clone(),
        }
    }

    /// Keeps what a wake's steps took, for whoever asked for it.
    fn tell_timings(&mut self) {
        if self.record.header.phase == Phase::Running {
            let timings = std::mem::take(&mut self.timings);
            metrics::wake(&timings);
            self.engine
                .wakes
                .keep(&self.record.key, self.record.header.epoch, timings);
        }
    }

    /// Renews the lease until dropped, or tells that somebody else took over.
    fn keep_lease(&self, fenced: CancellationToken) -> AbortOnDropHandle<()> {
        let (engine, key, epoch) = (
            self.engine.clone(),
            self.record.key.clone(),
            self.record.header.epoch,
        );
        let lease = engine.options.operation_lease;
        AbortOnDropHandle::new(tokio::spawn(async move {
            let mut ticks = tokio::time::interval_at(Instant::now() + lease / 3, lease / 3);
            loop {
                ticks.tick().await;
                match engine.store.renew(&key, epoch, engine.owner, lease).await {
                    Ok(()) | Err(StoreError::Unavailable(_)) => {}
                    Err(_) => return fenced.cancel(),
                }
            }
        }))
    }
}
