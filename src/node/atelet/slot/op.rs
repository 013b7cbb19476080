//! An order that is under way, and those who wait for it.

use super::super::files::Target;
use super::super::laps::Laps;
use super::super::outcome::{Failure, Outcome};
use crate::api::Epoch;
use crate::proto::atenode::{StepTiming, Workload};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What an assignment is made of.
#[derive(Debug, Clone)]
pub struct StartOrder {
    pub workload: Workload,
    /// Restored from it; else booted from the images.
    pub snapshot: Option<Target>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Start,
    Save,
    End,
}

/// An order that is under way.
pub struct Op {
    kind: Kind,
    pub epoch: Epoch,
    pub start: Option<StartOrder>,
    /// A newer order came: what is done for this one can stop.
    pub cancel: CancellationToken,
    laps: Mutex<Laps>,
    /// How it will have ended, once the slot is as it says.
    verdict: Mutex<Option<Failure>>,
    done: watch::Sender<Option<Outcome>>,
}

impl Op {
    pub fn new(kind: Kind, epoch: Epoch, start: Option<StartOrder>) -> Op {
        Op {
            kind,
            epoch,
            start,
            cancel: CancellationToken::new(),
            laps: Mutex::new(Laps::begin()),
            verdict: Mutex::default(),
            done: watch::Sender::new(None),
        }
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether it still is to start something.
    pub fn starts(&self) -> bool {
        self.kind == Kind::Start && !self.cancel.is_cancelled() && self.verdict().is_none()
    }

    pub fn lap(&self, name: &str) {
        self.laps().lap(name);
    }

    pub fn call(&self, name: &str, steps: Vec<StepTiming>) {
        self.laps().call(name, steps);
    }

    pub fn steps(&self) -> Vec<StepTiming> {
        self.laps().steps()
    }

    /// It has failed; its callers are told when the slot has been cleaned.
    pub fn fail(&self, failure: Failure) {
        self.verdict().get_or_insert(failure);
    }

    /// How it failed, if it did.
    pub fn failure(&self) -> Option<Failure> {
        self.verdict().clone()
    }

    /// Tells those who wait. The first outcome counts.
    pub fn finish(&self, outcome: Outcome) {
        self.done.send_if_modified(|done| {
            let first = done.is_none();
            if first {
                *done = Some(outcome);
            }
            first
        });
    }

    /// Waits for its end.
    pub async fn ended(&self) -> Outcome {
        let mut done = self.done.subscribe();
        let outcome = done.wait_for(Option::is_some).await;
        // The sender is in `self`.
        let gone = || Failure::Refused("the order was given up".into());
        outcome
            .map_err(|_| gone())
            .and_then(|outcome| outcome.clone().unwrap_or_else(|| Err(gone())))
    }

    fn laps(&self) -> MutexGuard<'_, Laps> {
        self.laps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn verdict(&self) -> MutexGuard<'_, Option<Failure>> {
        self.verdict.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
