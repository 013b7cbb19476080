//! Pieces of a storage's log, read once for all watchers who need them.
//!
//! A watcher that begins, or is further behind than the fan-out reaches, reads the log. Hundreds do so at once when a client
//! comes back with all its watches, or when a burst overtakes them: each piece is read and decoded by the first who needs it.

use super::fanout::Event;
use super::storage::{Storage, StorageError};
use crate::api::names::ResourceVersion;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Pieces that are kept, each as many changes as the storage gives at once: watchers at one log move through it side by side.
const KEPT: usize = 4;
/// For how long a watcher waits for its turn to read.
const TURN: Duration = Duration::from_secs(10);

/// A piece of the log.
pub struct Piece {
    /// In order, all after `from`.
    events: Vec<Arc<Event>>,
    from: ResourceVersion,
    /// Nothing is missing up to here.
    pub upto: ResourceVersion,
    /// When it was asked for: what was in the log by then is in it.
    began: Instant,
}

impl Piece {
    /// What of it comes after a version.
    pub fn after(&self, version: ResourceVersion) -> impl Iterator<Item = &Arc<Event>> {
        let start = self.events.partition_point(|e| e.change.version <= version);
        self.events.iter().skip(start)
    }

    /// Whether it brings somebody at a version further, or shows that there was nothing else when they asked.
    fn serves(&self, version: ResourceVersion, asked: Instant) -> bool {
        self.from <= version && (version < self.upto || version == self.upto && self.began >= asked)
    }
}

#[derive(Default)]
struct Kept {
    pieces: VecDeque<Arc<Piece>>,
    /// How often they were forgotten: what was being read at that time is not kept.
    cleared: u64,
    /// How often the log was read.
    reads: u64,
}

/// See the module.
#[derive(Default)]
pub struct History {
    kept: Mutex<Kept>,
    turn: tokio::sync::Mutex<()>,
}

impl History {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, version: ResourceVersion, asked: Instant) -> Option<Arc<Piece>> {
        let kept = self.kept();
        let mut newest_first = kept.pieces.iter().rev();
        newest_first.find(|p| p.serves(version, asked)).cloned()
    }

    /// A piece that goes on from a version: one that is kept, or else read now.
    ///
    /// # Errors
    /// As [`Storage::changes`]; `Unavailable` also when others read for too long.
    pub async fn after(
        &self,
        storage: &dyn Storage,
        version: ResourceVersion,
    ) -> Result<Arc<Piece>, StorageError> {
        let asked = Instant::now();
        if let Some(piece) = self.find(version, asked) {
            return Ok(piece);
        }
        let turn = tokio::time::timeout(TURN, self.turn.lock()).await;
        let _turn = turn.map_err(|_| {
            StorageError::Unavailable("too many watches read the change log".into())
        })?;
        if let Some(piece) = self.find(version, asked) {
            return Ok(piece);
        }
        let (began, cleared) = (Instant::now(), self.kept().cleared);
        let changes = storage.changes(version, Duration::ZERO).await?;
        let events = changes.items.into_iter().map(Event::new).map(Arc::new);
        let piece = Arc::new(Piece {
            events: events.collect(),
            from: version,
            upto: changes.upto.max(version),
            began,
        });
        let mut kept = self.kept();
        kept.reads += 1;
        if kept.cleared == cleared {
            if kept.pieces.len() == KEPT {
                kept.pieces.pop_front();
            }
            kept.pieces.push_back(piece.clone());
        }
        Ok(piece)
    }

    /// How often the log was read.
    pub fn reads(&self) -> u64 {
        self.kept().reads
    }

    /// Forgets what was read: nobody watches, or objects look different now.
    pub fn clear(&self) {
        let mut kept = self.kept();
        kept.pieces.clear();
        kept.cleared += 1;
    }
}
