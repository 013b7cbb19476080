//! The operations that run in this process, so that callers wait for them without asking the store.

use crate::api::ActorKey;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// Operations under way here, by actor.
#[derive(Default)]
pub(super) struct Running(Arc<Mutex<HashMap<ActorKey, watch::Receiver<()>>>>);

/// Marks an operation as under way until dropped.
pub(super) struct Guard {
    all: Arc<Mutex<HashMap<ActorKey, watch::Receiver<()>>>>,
    key: ActorKey,
    _ended: watch::Sender<()>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.all
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.key);
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
            _ended: ended,
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
