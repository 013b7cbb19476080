//! The loop of a slot: ask, plan, do one step, again.

use super::{LOG, Slot};
use crate::failpoint;
use crate::lifecycle::Observed;
use crate::lifecycle::slot::{Sandbox, Step, plan};
use crate::proto::atenode::ObserveWorkloadRequest;
use crate::proto::atenode::observe_workload_response::State as Wire;
use crate::sandbox::logs;
use crate::telemetry::chain;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How often the executor of an assignment is asked what runs.
const ASSIGNED_TICK: Duration = Duration::from_secs(2);
/// How often that of a free slot is.
const FREE_TICK: Duration = Duration::from_secs(10);
/// How long an executor may take to answer.
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// An executor that does not answer for so long is taken for broken.
const SILENCE_LIMIT: Duration = Duration::from_secs(40);
/// Pause before the executor is asked again: first, and at most.
const ASK_PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(500));
/// Pause after a step that failed: first, and at most.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(20));

/// What the loop remembers between steps.
struct Pace {
    ask: Duration,
    retry: Duration,
    answered: Instant,
}

impl Pace {
    fn new() -> Pace {
        Pace {
            ask: ASK_PAUSE.0,
            retry: RETRY_PAUSE.0,
            answered: Instant::now(),
        }
    }
}

impl Slot {
    /// Runs until `stop`, which leaves everything as it is, or until the slot has retired.
    pub async fn converge(self: Arc<Self>, stop: CancellationToken) {
        let mut pace = Pace::new();
        let mut latest = self.node.latest.subscribe();
        loop {
            if stop.is_cancelled() {
                return;
            }
            self.look_at_process();
            if self.gone.is_cancelled() || self.is_retiring() && !self.is_busy() {
                match self.leave().await {
                    Ok(()) => return,
                    Err(error) => {
                        tracing::warn!(
                            slot = self.place.name(),
                            error = chain(&error),
                            "cannot take a slot away"
                        );
                        self.pause(&mut pace, &stop).await;
                        continue;
                    }
                }
            }
            let step = self.next_step();
            if step == Step::Wait {
                tokio::select! {
                    () = self.wait(&stop) => {}
                    // Fails only when the node is gone.
                    Ok(()) = latest.changed() => {}
                }
                continue;
            }
            let turn = self.turn.lock().await;
            failpoint::crash(&format!("slot.{}.before", step.name()));
            let fine = self.carry_out(step, &mut pace).await;
            failpoint::crash(&format!("slot.{}.after", step.name()));
            drop(turn);
            self.node.changed.send_replace(());
            if !fine {
                self.pause(&mut pace, &stop).await;
            } else if step != Step::Ask {
                pace = Pace::new();
            }
        }
    }

    fn next_step(&self) -> Step {
        let saved = self.is_saved();
        let state = self.state();
        self.give_up_start(&state);
        let lease = self.node.lease.state();
        let prepare = self.wants_ahead(&state).is_some();
        plan(&state.desired(saved, prepare), lease, &state.sandbox)
    }

    /// Whether the step did what it should; if not it is tried again later.
    async fn carry_out(&self, step: Step, pace: &mut Pace) -> bool {
        if step != Step::Ask {
            tracing::debug!(slot = self.place.name(), step = step.name(), "step");
        }
        let done = match step {
            Step::Wait => Ok(()),
            Step::Ask => {
                self.ask_again(pace).await;
                Ok(())
            }
            Step::Prepare => {
                self.prepare_ahead().await;
                Ok(())
            }
            Step::Start => {
                self.bring_up().await;
                Ok(())
            }
            Step::Confirm => self.confirm(),
            Step::Freeze => {
                self.freeze().await;
                Ok(())
            }
            Step::Thaw => self.thaw().await,
            Step::Save => {
                self.checkpoint().await;
                Ok(())
            }
            Step::GiveUpSaving => self.give_up_saving(),
            Step::Deliver => self.deliver().await,
            Step::End => {
                self.end_sandbox().await;
                match self.assignment() {
                    // With one, it goes when the slot is freed.
                    Some(_) => Ok(()),
                    None => self.drop_ahead().await,
                }
            }
            Step::Forget => self.forget().await,
            Step::Rebuild => self.rebuild().await,
        };
        if let Err(error) = &done {
            tracing::warn!(
                slot = self.place.name(),
                step = step.name(),
                error = chain(error),
                "a step failed"
            );
        }
        done.is_ok()
    }

    /// An executor whose process has ended is none.
    fn look_at_process(&self) {
        let mut state = self.state();
        let ended = state.executor.as_ref().filter(|e| !e.process.is_alive());
        if let Some(executor) = ended {
            tracing::warn!(
                slot = self.place.name(),
                uid = executor.record.uid,
                "the executor has ended"
            );
            state.executor = None;
            state.sandbox = Observed::Absent;
            drop(state);
            self.node.changed.send_replace(());
        }
    }

    /// Sleeps until there is something to do.
    async fn wait(&self, stop: &CancellationToken) {
        let (process, assigned) = {
            let state = self.state();
            let process = state.executor.as_ref().map(|e| e.process.clone());
            (process, state.desired.assignment.is_some())
        };
        let ended = async {
            match process {
                Some(process) => process.ended().await.is_ok(),
                None => std::future::pending().await,
            }
        };
        let tick = if assigned { ASSIGNED_TICK } else { FREE_TICK };
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.wake.notified() => {}
            _ = ended => {}
            () = sleep(tick) => {
                self.observe().await;
                self.bound_log();
            }
        }
    }

    async fn pause(&self, pace: &mut Pace, stop: &CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.gone.cancelled(), if !self.gone.is_cancelled() => {}
            () = sleep(pace.retry) => {}
        }
        pace.retry = (pace.retry * 2).min(RETRY_PAUSE.1);
    }

    /// Asks the executor unless a step is under way. What it says is planned with.
    pub async fn observe(&self) {
        if let Ok(_turn) = self.turn.try_lock()
            && let Some(sandbox) = self.ask().await
        {
            let news = Observed::Known(sandbox);
            let changed = {
                let mut state = self.state();
                let changed = state.executor.is_some() && state.sandbox != news;
                if changed {
                    state.sandbox = news;
                }
                changed
            };
            if changed {
                self.changed();
            }
        }
    }

    async fn ask_again(&self, pace: &mut Pace) {
        let answer = self.ask().await;
        let sandbox = match answer {
            Some(sandbox) => {
                pace.answered = Instant::now();
                Observed::Known(sandbox)
            }
            None if pace.answered.elapsed() > SILENCE_LIMIT => {
                tracing::warn!(slot = self.place.name(), "the executor does not answer");
                Observed::Known(Sandbox::Dirty)
            }
            None => Observed::Unknown,
        };
        let unclear = matches!(sandbox, Observed::Unknown | Observed::Known(Sandbox::Busy));
        self.learn(sandbox);
        if unclear {
            sleep(pace.ask).await;
            pace.ask = (pace.ask * 2).min(ASK_PAUSE.1);
        }
    }

    /// What the executor says; `None` when it does not say anything.
    pub(super) async fn ask(&self) -> Option<Sandbox> {
        let mut client = self.state().executor.as_ref()?.client.clone();
        let answer = timeout(
            ASK_LIMIT,
            client.observe_workload(ObserveWorkloadRequest {}),
        )
        .await;
        let answer = match answer {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => {
                tracing::debug!(slot = self.place.name(), %status, "the executor cannot say what runs");
                return None;
            }
            Err(_) => return None,
        };
        let epoch = crate::api::Epoch(answer.epoch);
        if answer.exit.is_some() {
            self.state().exit.clone_from(&answer.exit);
        }
        Some(match answer.state() {
            Wire::Clean => Sandbox::Clean,
            Wire::Running => Sandbox::Running { epoch },
            Wire::Frozen => Sandbox::Frozen { epoch },
            Wire::Exited => Sandbox::Exited,
            Wire::Busy => Sandbox::Busy,
            Wire::Dirty | Wire::Unspecified => {
                tracing::warn!(
                    slot = self.place.name(),
                    left = answer.message,
                    "the slot is not clean"
                );
                Sandbox::Dirty
            }
        })
    }

    /// Asks, and plans with the answer; without one it is asked again.
    pub(super) async fn look(&self) {
        let sandbox = self.ask().await.map_or(Observed::Unknown, Observed::Known);
        self.learn(sandbox);
    }

    /// What is known of a sandbox, as long as there is an executor.
    pub(super) fn learn(&self, sandbox: Observed<Sandbox>) {
        let mut state = self.state();
        if state.executor.is_some() {
            state.sandbox = sandbox;
        }
    }

    fn bound_log(&self) {
        if let Err(error) = logs::rotate(&self.dir, LOG, logs::MAX_BYTES) {
            tracing::warn!(slot = self.place.name(), %error, "cannot rotate the executor's log");
        }
    }
}
