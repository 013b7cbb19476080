//! One reader of the log per process, and its fan-out in memory.
//!
//! The reader runs while somebody waits for changes, polls the shards' newest stamps, and keeps the newest changes;
//! those who wait read from memory, those who are further behind from the log. So the cost at the server does not
//! grow with those who wait.

use super::client::Client;
use super::log;
use crate::api::names::ResourceVersion;
use crate::store::{Change, Kind, StoreError};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Between two looks at the stamps while nothing happens here; a write of this process is looked for at once.
const POLL: Duration = Duration::from_millis(25);
/// Changes kept in memory.
const KEPT: usize = 4096;
/// Changes read from one shard at once.
const PIECE: usize = 500;
/// The reader stops when nobody has waited for so long.
const IDLE: Duration = Duration::from_secs(10);
/// Who waits is told when the log could not be read for so long.
const SILENCE: Duration = Duration::from_secs(10);

#[derive(Default)]
struct State {
    /// The newest changes, in order.
    kept: VecDeque<(Kind, Change)>,
    /// Everything after this is kept.
    from: ResourceVersion,
    /// The reader, while it runs: when somebody last waited, and when the log was last read.
    running: Option<Running>,
}

#[derive(Clone, Copy)]
struct Running {
    wanted: Instant,
    read: Instant,
}

impl State {
    fn was_read(&mut self) {
        if let Some(running) = &mut self.running {
            running.read = Instant::now();
        }
    }
}

struct Shared {
    state: Mutex<State>,
    /// Everything up to here is kept or was.
    upto: watch::Sender<ResourceVersion>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The fan-out.
pub struct Feed {
    client: Arc<Client>,
    shared: Arc<Shared>,
}

impl Feed {
    /// A feed whose reader does not run yet.
    pub fn new(client: Arc<Client>) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::default()),
            upto: watch::Sender::new(ResourceVersion(0)),
        });
        Self { client, shared }
    }

    /// Changes of a kind after a version, as [`Store::changes`](crate::store::Store::changes).
    pub async fn changes(
        &self,
        kind: Kind,
        mut after: ResourceVersion,
        limit: usize,
        wait: Duration,
    ) -> Result<Vec<Change>, StoreError> {
        let deadline = Instant::now() + wait;
        loop {
            let mut progress = self.subscribe();
            let found = match self.kept(kind, after, limit) {
                Some(found) => found,
                None => {
                    let piece = log::read(&self.client, after, PIECE).await?;
                    let advanced = piece.upto > after;
                    let found: Vec<_> = of_kind(piece.changes.iter(), kind, after, limit);
                    after = after.max(piece.upto);
                    if found.is_empty() && advanced {
                        continue;
                    }
                    found
                }
            };
            if !found.is_empty() || Instant::now() >= deadline {
                return Ok(found);
            }
            self.wait(&mut progress, deadline).await?;
        }
    }

    /// Waits until the log went on or the deadline passed.
    pub async fn wait(
        &self,
        progress: &mut watch::Receiver<ResourceVersion>,
        deadline: Instant,
    ) -> Result<(), StoreError> {
        self.run();
        let until = deadline.min(Instant::now() + POLL * 40);
        // Neither a deadline nor a reader that ends is an error: the caller looks again.
        let _ = tokio::time::timeout_at(until, progress.changed()).await;
        let state = self.shared.state();
        match state.running {
            Some(running) if running.read.elapsed() > SILENCE => Err(StoreError::Unavailable(
                "the change log could not be read".into(),
            )),
            _ => Ok(()),
        }
    }

    /// To wait on from here.
    pub fn subscribe(&self) -> watch::Receiver<ResourceVersion> {
        let mut progress = self.shared.upto.subscribe();
        progress.mark_unchanged();
        progress
    }

    /// What memory has after a version; `None` when it does not reach back that far, or is not up to date.
    fn kept(&self, kind: Kind, after: ResourceVersion, limit: usize) -> Option<Vec<Change>> {
        let state = self.shared.state();
        if state.running.is_none() || after < state.from {
            return None;
        }
        let found = of_kind(state.kept.iter(), kind, after, limit);
        // Nothing new in memory may mean that the reader has not looked yet at what this process already knows of.
        let read = self.shared.upto.borrow().tick();
        (!found.is_empty() || read >= self.client.seen.any()).then_some(found)
    }

    /// Makes sure that the reader runs.
    fn run(&self) {
        let now = Instant::now();
        let mut state = self.shared.state();
        match &mut state.running {
            Some(running) => running.wanted = now,
            None => {
                state.running = Some(Running {
                    wanted: now,
                    read: now,
                });
                state.from = ResourceVersion(u64::MAX);
                tokio::spawn(reader(
                    Arc::downgrade(&self.client),
                    Arc::downgrade(&self.shared),
                ));
            }
        }
    }
}

fn of_kind<'a>(
    changes: impl Iterator<Item = &'a (Kind, Change)>,
    kind: Kind,
    after: ResourceVersion,
    limit: usize,
) -> Vec<Change> {
    changes
        .filter(|(k, change)| *k == kind && change.version > after)
        .take(limit)
        .map(|(_, change)| change.clone())
        .collect()
}

/// Reads until nobody waits, or the store is dropped.
async fn reader(client: Weak<Client>, shared: Weak<Shared>) {
    let mut at = None;
    loop {
        let (Some(client), Some(shared)) = (client.upgrade(), shared.upgrade()) else {
            return;
        };
        let wrote = client.wrote.notified();
        match step(&client, &shared, at).await {
            Ok(upto) => at = Some(upto),
            Err(StoreError::Expired(_)) => at = None,
            Err(e) => tracing::debug!(error = %e, "the change log could not be read"),
        }
        if stop_if_idle(&shared) {
            return;
        }
        // The deadline is the usual case.
        let _ = tokio::time::timeout(POLL, wrote).await;
    }
}

async fn step(
    client: &Client,
    shared: &Shared,
    at: Option<ResourceVersion>,
) -> Result<ResourceVersion, StoreError> {
    let Some(at) = at else {
        let start = log::version_at(log::newest(client).await?);
        let mut state = shared.state();
        state.kept.clear();
        state.from = start;
        state.was_read();
        drop(state);
        shared.upto.send_replace(start);
        return Ok(start);
    };
    let piece = log::read(client, at, PIECE).await?;
    let mut state = shared.state();
    state.was_read();
    state.kept.extend(piece.changes);
    while state.kept.len() > KEPT {
        if let Some((_, change)) = state.kept.pop_front() {
            state.from = change.version;
        }
    }
    drop(state);
    if piece.upto > at {
        shared.upto.send_replace(piece.upto);
    }
    Ok(piece.upto)
}

fn stop_if_idle(shared: &Shared) -> bool {
    let mut state = shared.state();
    let idle = state
        .running
        .is_none_or(|running| running.wanted.elapsed() > IDLE);
    if idle {
        state.running = None;
        state.kept.clear();
    }
    idle
}
