//! What this node has seen of orders, so that late ones are refused.

use super::error::Error;
use super::files::{self, Identity};
use super::outcome::Failure;
use crate::api::{Epoch, Incarnation, Timestamp};
use crate::lifecycle::slot::{self, Fence, Seen};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Actors that are remembered. Far more than orders can be under way; a forgotten one's late orders are still held
/// against their not-after and the executor's own memory.
const MAX_ACTORS: usize = 65_536;

pub(super) struct Fences {
    file: PathBuf,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    incarnation: Incarnation,
    actors: HashMap<String, Seen>,
}

impl Fences {
    /// Reads the highest incarnation from `file`.
    pub fn open(file: PathBuf) -> Result<Fences, Error> {
        let incarnation = files::read(&file)?.unwrap_or_default();
        Ok(Fences {
            file,
            known: Mutex::new(Known {
                incarnation,
                ..Known::default()
            }),
        })
    }

    /// Checks an order and remembers it. `starts`: it would bring up an assignment of its epoch.
    pub fn admit(&self, actor: &Identity, fence: &Fence, starts: bool) -> Result<(), Failure> {
        let mut known = self.known();
        let mut seen = known.actors.get(&actor.uid).copied().unwrap_or_default();
        seen.incarnation = known.incarnation;
        slot::admit(fence, starts, &seen, Timestamp::now())?;
        self.raise(&mut known, fence.incarnation);
        if !actor.uid.is_empty() {
            known.raise(&actor.uid, fence.epoch);
        }
        Ok(())
    }

    /// Remembers that the assignment of `epoch` has ended.
    pub fn ended(&self, uid: &str, epoch: Epoch) {
        let mut known = self.known();
        known.raise(uid, epoch);
        if let Some(seen) = known.actors.get_mut(uid) {
            seen.ended = seen.ended.max(Some(epoch));
        }
    }

    /// Remembers an assignment that was found on disk.
    pub fn found(&self, uid: &str, epoch: Epoch) {
        self.known().raise(uid, epoch);
    }

    /// Takes in an incarnation; returns the highest.
    pub fn witness(&self, incarnation: Incarnation) -> Incarnation {
        let mut known = self.known();
        self.raise(&mut known, incarnation);
        known.incarnation
    }

    fn raise(&self, known: &mut Known, incarnation: Incarnation) {
        if incarnation <= known.incarnation {
            return;
        }
        known.incarnation = incarnation;
        if let Err(error) = files::write(&self.file, &incarnation) {
            tracing::warn!(%error, "cannot keep the store's incarnation");
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn raise(&mut self, uid: &str, epoch: Epoch) {
        if self.actors.len() >= MAX_ACTORS && !self.actors.contains_key(uid) {
            // Rare enough that half of them at once is cheaper than an order of use.
            let mut keep = false;
            self.actors.retain(|_, _| {
                keep = !keep;
                keep
            });
        }
        let seen = self.actors.entry(uid.to_owned()).or_default();
        seen.epoch = seen.epoch.max(epoch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(epoch: u64, incarnation: u64) -> Fence {
        Fence {
            epoch: Epoch(epoch),
            incarnation: Incarnation(incarnation),
            not_after: None,
        }
    }

    #[test]
    fn newer_orders_shut_older_ones_out() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("incarnation");
        let fences = Fences::open(file.clone()).unwrap();
        let actor = |uid: &str| Identity {
            uid: uid.into(),
            ..Identity::default()
        };
        fences.admit(&actor("a"), &order(5, 1), true).unwrap();
        fences.admit(&actor("a"), &order(5, 1), true).unwrap();
        fences.admit(&actor("b"), &order(1, 2), true).unwrap();
        assert!(fences.admit(&actor("a"), &order(4, 2), false).is_err());
        assert!(fences.admit(&actor("a"), &order(9, 1), false).is_err());
        fences.ended("a", Epoch(5));
        assert!(fences.admit(&actor("a"), &order(5, 2), true).is_err());
        fences.admit(&actor("a"), &order(5, 2), false).unwrap();
        fences.admit(&actor("a"), &order(6, 2), true).unwrap();

        let restarted = Fences::open(file).unwrap();
        assert!(restarted.admit(&actor("c"), &order(9, 1), true).is_err());
        assert_eq!(restarted.witness(Incarnation(1)), Incarnation(2));
    }

    #[test]
    fn memory_has_a_bound() {
        let dir = tempfile::tempdir().unwrap();
        let fences = Fences::open(dir.path().join("incarnation")).unwrap();
        for n in 0..MAX_ACTORS + 10 {
            fences.found(&n.to_string(), Epoch(1));
        }
        assert!(fences.known().actors.len() <= MAX_ACTORS);
    }
}
