//! One reader of a log per process, and its fan-out in memory.
//!
//! The reader runs while somebody waits for changes, polls while there are any, and keeps the newest; while there are none it
//! is told of the next where the server can tell, and polls more slowly elsewhere. Those who wait read from memory, those who
//! are further behind from the log. So the cost at the server does not grow with those who wait, and is nothing while nobody
//! does.

use crate::api::names::ResourceVersion;
use crate::store::{Changes, StoreError};
use async_trait::async_trait;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Between two looks at the log while changes come; also how soon a write of this process is looked for.
const FASTEST: Duration = Duration::from_millis(10);
/// Between two looks while none come, where the server cannot tell of the next.
const SLOWEST: Duration = Duration::from_millis(40);
/// Changes kept in memory, and what they may take.
const KEPT: usize = 16_384;
const KEPT_BYTES: usize = 32 << 20;
/// The reader stops when nobody has waited for so long.
const IDLE: Duration = Duration::from_secs(10);
/// Who waits is told when the log could not be read for so long.
const SILENCE: Duration = Duration::from_secs(10);
/// Who waits looks after the reader so often.
const LOOK: Duration = Duration::from_secs(1);

/// A change as it is kept.
pub struct Entry<T> {
    /// Its place in the log.
    pub version: ResourceVersion,
    /// About how many bytes it takes.
    pub weight: usize,
    /// The change.
    pub change: Arc<T>,
}

/// A piece of a log.
pub struct Piece<T> {
    /// In order.
    pub entries: Vec<Entry<T>>,
    /// Nothing is missing up to here.
    pub upto: ResourceVersion,
}

/// A log.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// What it consists of.
    type Change: Send + Sync + 'static;
    /// Its newest version.
    async fn newest(&self) -> Result<ResourceVersion, StoreError>;
    /// A piece of it after a version. `Expired` when it was trimmed past it, or never came to it.
    async fn read(&self, after: ResourceVersion) -> Result<Piece<Self::Change>, StoreError>;
    /// The newest stamp of it that this process has seen in a reply.
    fn seen(&self) -> u64;
    /// Told of every write of this process.
    fn wrote(&self) -> &Notify;
    /// Returns `true` as soon as there may be something after a version, or after a while; `false` where that cannot be waited for.
    async fn news(&self, _after: ResourceVersion) -> bool {
        false
    }
}

struct State<T> {
    /// The newest changes, in order.
    kept: VecDeque<Entry<T>>,
    bytes: usize,
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

impl<T> State<T> {
    fn was_read(&mut self) {
        if let Some(running) = &mut self.running {
            running.read = Instant::now();
        }
    }

    fn clear(&mut self, from: ResourceVersion) {
        self.kept.clear();
        self.bytes = 0;
        self.from = from;
    }

    fn keep(&mut self, entries: Vec<Entry<T>>) {
        self.bytes += entries.iter().map(|e| e.weight).sum::<usize>();
        self.kept.extend(entries);
        while self.kept.len() > KEPT || self.bytes > KEPT_BYTES {
            let Some(oldest) = self.kept.pop_front() else {
                return;
            };
            self.bytes -= oldest.weight;
            self.from = oldest.version;
        }
    }

    /// What is kept after a version, at most `limit`, and up to where nothing else is wanted.
    fn after(
        &self,
        after: ResourceVersion,
        upto: ResourceVersion,
        limit: usize,
        wanted: impl Fn(&T) -> bool,
    ) -> Changes<T> {
        let start = self.kept.partition_point(|e| e.version <= after);
        let newer = self.kept.range(start..);
        take(newer, upto.max(after), limit, wanted)
    }
}

struct Shared<T> {
    state: Mutex<State<T>>,
    /// Everything up to here is kept or was.
    upto: watch::Sender<ResourceVersion>,
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The fan-out of a log.
pub struct Feed<S: Source> {
    source: Arc<S>,
    shared: Arc<Shared<S::Change>>,
}

impl<S: Source> Feed<S> {
    /// A feed whose reader does not run yet.
    pub fn new(source: S) -> Self {
        let state = State {
            kept: VecDeque::new(),
            bytes: 0,
            from: ResourceVersion(u64::MAX),
            running: None,
        };
        Self {
            source: Arc::new(source),
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                upto: watch::Sender::new(ResourceVersion(0)),
            }),
        }
    }

    /// Those changes after a version that are wanted, as [`Store::changes`](crate::store::Store::changes).
    pub async fn changes(
        &self,
        mut after: ResourceVersion,
        limit: usize,
        wait: Duration,
        wanted: impl Fn(&S::Change) -> bool + Send + Sync,
    ) -> Result<Changes<S::Change>, StoreError> {
        let deadline = Instant::now() + wait;
        loop {
            let mut progress = self.shared.upto.subscribe();
            progress.mark_unchanged();
            let waits = Instant::now() < deadline;
            let (found, looked) = match self.kept(after, limit, waits, &wanted) {
                Some(found) => (found, false),
                None => {
                    let piece = self.source.read(after).await?;
                    let upto = piece.upto.max(after);
                    (take(piece.entries.iter(), upto, limit, &wanted), true)
                }
            };
            if !found.items.is_empty() || !waits {
                return Ok(found);
            }
            let advanced = found.upto > after;
            after = found.upto;
            if !(looked && advanced) {
                self.wait(&mut progress, deadline).await?;
            }
        }
    }

    /// Waits until the log went on or the deadline passed.
    async fn wait(
        &self,
        progress: &mut watch::Receiver<ResourceVersion>,
        deadline: Instant,
    ) -> Result<(), StoreError> {
        self.run();
        let until = deadline.min(Instant::now() + LOOK);
        // Neither a deadline nor a reader that ends is an error: the caller looks again.
        let _ = tokio::time::timeout_at(until, progress.changed()).await;
        match self.shared.state().running {
            Some(running) if running.read.elapsed() > SILENCE => Err(StoreError::Unavailable(
                "the change log could not be read".into(),
            )),
            _ => Ok(()),
        }
    }

    /// What memory has after a version; `None` when it does not reach back that far, or when somebody who does not wait
    /// must see what this process knows of already.
    fn kept(
        &self,
        after: ResourceVersion,
        limit: usize,
        waits: bool,
        wanted: impl Fn(&S::Change) -> bool,
    ) -> Option<Changes<S::Change>> {
        let state = self.shared.state();
        if state.running.is_none() || after < state.from || after.tick() > self.source.seen() {
            return None;
        }
        let upto = *self.shared.upto.borrow();
        let found = state.after(after, upto, limit, wanted);
        let fresh = waits || upto.tick() >= self.source.seen();
        (!found.items.is_empty() || fresh).then_some(found)
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
                state.clear(ResourceVersion(u64::MAX));
                tokio::spawn(reader(
                    Arc::downgrade(&self.source),
                    Arc::downgrade(&self.shared),
                ));
            }
        }
    }
}

/// The wanted ones of some entries, at most `limit`; without that limit they would reach up to `upto`.
fn take<'a, T: 'a>(
    entries: impl Iterator<Item = &'a Entry<T>>,
    upto: ResourceVersion,
    limit: usize,
    wanted: impl Fn(&T) -> bool,
) -> Changes<T> {
    let mut items = Vec::new();
    for entry in entries.filter(|e| wanted(&e.change)) {
        items.push(entry.change.clone());
        if items.len() >= limit.max(1) {
            let upto = entry.version;
            return Changes { items, upto };
        }
    }
    Changes { items, upto }
}

/// Reads until nobody waits, or the store is dropped.
async fn reader<S: Source>(source: Weak<S>, shared: Weak<Shared<S::Change>>) {
    let (mut at, mut pause) = (None, FASTEST);
    loop {
        let (Some(source), Some(shared)) = (source.upgrade(), shared.upgrade()) else {
            return;
        };
        let wrote = source.wrote().notified();
        pause = (pause * 2).min(SLOWEST);
        let mut quiet = None;
        match step(&*source, &shared, at).await {
            Ok(upto) if at == Some(upto) => quiet = at,
            Ok(upto) => {
                pause = FASTEST;
                at = Some(upto);
            }
            Err(StoreError::Expired(_)) => at = None,
            Err(e) => tracing::debug!(error = %e, "the change log could not be read"),
        }
        if stop_if_idle(&shared) {
            return;
        }
        drop(shared);
        tokio::time::sleep(FASTEST).await;
        if let Some(at) = quiet
            && source.news(at).await
        {
            continue;
        }
        // The deadline is the usual case.
        let _ = tokio::time::timeout(pause - FASTEST, wrote).await;
    }
}

async fn step<S: Source>(
    source: &S,
    shared: &Shared<S::Change>,
    at: Option<ResourceVersion>,
) -> Result<ResourceVersion, StoreError> {
    let Some(at) = at else {
        let start = source.newest().await?;
        let mut state = shared.state();
        state.clear(start);
        state.was_read();
        drop(state);
        shared.upto.send_replace(start);
        return Ok(start);
    };
    let piece = source.read(at).await?;
    let mut state = shared.state();
    state.was_read();
    state.keep(piece.entries);
    drop(state);
    if piece.upto > at {
        shared.upto.send_replace(piece.upto);
    }
    Ok(piece.upto.max(at))
}

fn stop_if_idle<T>(shared: &Shared<T>) -> bool {
    let mut state = shared.state();
    let idle = state
        .running
        .is_none_or(|running| running.wanted.elapsed() > IDLE);
    if idle {
        state.running = None;
        state.clear(ResourceVersion(u64::MAX));
    }
    idle
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State<u64> {
        State {
            kept: VecDeque::new(),
            bytes: 0,
            from: ResourceVersion(0),
            running: None,
        }
    }

    fn entries(range: std::ops::Range<u64>, weight: usize) -> Vec<Entry<u64>> {
        let entry = |n| Entry {
            version: ResourceVersion(n),
            weight,
            change: Arc::new(n),
        };
        range.map(entry).collect()
    }

    #[test]
    fn what_is_kept_is_bounded_by_number_and_bytes() {
        let mut state = state();
        state.keep(entries(1..KEPT as u64 + 101, 1));
        assert_eq!((state.kept.len(), state.bytes), (KEPT, KEPT));
        assert_eq!(state.from, ResourceVersion(100));
        state.keep(entries(100_000..100_004, KEPT_BYTES / 2));
        assert_eq!(state.kept.len(), 2);
        assert_eq!(state.from, ResourceVersion(100_001));
    }

    #[test]
    fn a_limit_moves_only_as_far_as_it_showed() {
        let mut state = state();
        state.keep(entries(1..11, 1));
        let upto = ResourceVersion(20);
        let even = |n: &u64| n.is_multiple_of(2);
        let found = state.after(ResourceVersion(3), upto, 2, even);
        assert_eq!((*found.items[0], *found.items[1]), (4, 6));
        assert_eq!(found.upto, ResourceVersion(6));
        let found = state.after(found.upto, upto, 100, even);
        assert_eq!((found.items.len(), found.upto), (2, upto));
        assert!(state.after(upto, upto, 1, even).items.is_empty());
    }
}
