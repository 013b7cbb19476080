//! The operations that run in this process, so that callers wait for them without asking the store; and what the steps of
//! the latest wakes took.

use crate::api::{ActorKey, Epoch};
use crate::proto::atenode::StepTiming;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// Operations under way here, by actor.
#[derive(Default)]
pub(super) struct Running(Arc<Mutex<HashMap<ActorKey, watch::Receiver<()>>>>);

/// Marks an operation as under way until dropped.
pub(super) struct Guard {
    all: Arc<Mutex<HashMap<ActorKey, watch::Receiver<()>>>>,
    key: ActorKey,
    ended: watch::Sender<()>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        // A wake that cut this one short may be under way by now.
        let own = |receiver: &watch::Receiver<()>| receiver.same_channel(&self.ended.subscribe());
        if all.get(&self.key).is_some_and(own) {
            all.remove(&self.key);
        }
    }
}

impl Running {
    /// Marks an operation on `key`.
    pub(super) fn enter(&self, key: &ActorKey) -> Guard {
        let (ended, receiver) = watch::channel(());
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key.clone(), receiver);
        Guard {
            all: self.0.clone(),
            key: key.clone(),
            ended,
        }
    }

    /// Returns when the operation on `key` has ended; `false` at once if there is none here.
    pub(super) async fn ended(&self, key: &ActorKey) -> bool {
        let receiver = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .cloned();
        match receiver {
            Some(mut receiver) => {
                while receiver.changed().await.is_ok() {}
                true
            }
            None => false,
        }
    }
}

/// Wakes whose steps are kept until somebody asks.
const MOST_WAKES: usize = 256;

/// What the steps of the latest wakes took.
#[derive(Default)]
pub(super) struct Wakes(Mutex<VecDeque<(ActorKey, Epoch, Vec<StepTiming>)>>);

impl Wakes {
    pub(super) fn keep(&self, key: &ActorKey, epoch: Epoch, timings: Vec<StepTiming>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST_WAKES {
            all.pop_front();
        }
        all.push_back((key.clone(), epoch, timings));
    }

    /// The steps of the wake that began at `epoch`; once.
    pub(super) fn take(&self, key: &ActorKey, epoch: Epoch) -> Vec<StepTiming> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = all.iter().rposition(|(k, e, _)| k == key && *e == epoch);
        at.and_then(|at| all.remove(at))
            .map(|(_, _, timings)| timings)
            .unwrap_or_default()
    }
}
