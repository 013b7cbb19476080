//! How much is under way at once. What is too much is told to come again, so that nobody waits for a queue that only grows.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Reads under way (kube-apiserver's `--max-requests-inflight`).
const READS: usize = 400;
/// Writes under way (kube-apiserver's `--max-mutating-requests-inflight`).
const WRITES: usize = 200;
/// Requests that are not about objects: discovery must answer when everything else is full, or the whole API counts as gone.
const OTHERS: usize = 200;
/// Watches, log streams and calls that wait for an actor.
const LONG: usize = 10_000;

/// What a request is, for its bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Answers at once, changes nothing.
    Read,
    /// Answers at once, changes something.
    Write,
    /// Not about objects.
    Other,
    /// Lasts.
    Long,
}

/// How much of each class.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// [`Class::Read`].
    pub reads: usize,
    /// [`Class::Write`].
    pub writes: usize,
    /// [`Class::Other`].
    pub others: usize,
    /// [`Class::Long`].
    pub long: usize,
}

/// The bounds of a server, and what is under way.
#[derive(Clone, Debug)]
pub struct Inflight {
    reads: Arc<Semaphore>,
    writes: Arc<Semaphore>,
    others: Arc<Semaphore>,
    long: Arc<Semaphore>,
}

impl Default for Inflight {
    fn default() -> Self {
        Self::new(Bounds {
            reads: READS,
            writes: WRITES,
            others: OTHERS,
            long: LONG,
        })
    }
}

impl Inflight {
    /// With nothing under way.
    pub fn new(bounds: Bounds) -> Self {
        let of = |n| Arc::new(Semaphore::new(n));
        Self {
            reads: of(bounds.reads),
            writes: of(bounds.writes),
            others: of(bounds.others),
            long: of(bounds.long),
        }
    }

    /// A place for a request for as long as the permit is kept; `None`: there is too much already.
    pub fn enter(&self, class: Class) -> Option<OwnedSemaphorePermit> {
        let bound = match class {
            Class::Read => &self.reads,
            Class::Write => &self.writes,
            Class::Other => &self.others,
            Class::Long => &self.long,
        };
        bound.clone().try_acquire_owned().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_do_not_fill_one_another() {
        let bounds = Inflight::new(Bounds {
            reads: 1,
            writes: 1,
            others: 1,
            long: 1,
        });
        let read = bounds.enter(Class::Read);
        assert!(read.is_some() && bounds.enter(Class::Read).is_none());
        let others = [Class::Write, Class::Other, Class::Long].map(|c| bounds.enter(c));
        assert!(others.iter().all(Option::is_some));
        drop(read);
        assert!(bounds.enter(Class::Read).is_some());
    }
}
