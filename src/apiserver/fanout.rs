//! The changes of a kind, shared by all who watch it.
//!
//! While somebody watches, one task follows the storage's changes and keeps the newest as [`Event`]s, whose encodings
//! are made once for all. A watcher that is further behind reads the storage's log until it has caught up. Nothing is
//! read and nothing is kept while nobody watches.

use super::body::Reply;
use super::history::{History, Piece};
use super::negotiate::{Format, Shape, Wanted};
use super::registration::Registration;
use super::storage::{Backdrop, ObjectChange, Storage, StorageError};
use super::table::{self, Include};
use crate::api::names::ResourceVersion;
use crate::api::time::Timestamp;
use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Events that are kept, and about how many bytes they may take.
pub const KEPT: usize = 4096;
/// See [`KEPT`].
pub const KEPT_BYTES: usize = 32 << 20;
/// Events that a watcher is given at once.
const BATCH: usize = 256;
/// One wait for changes; also how soon it is noticed that nobody watches any more.
const WAIT: Duration = Duration::from_secs(1);
/// The task goes on for so long after the last watcher has left.
const IDLE: Duration = Duration::from_secs(10);
/// Between two attempts to begin.
const RETRY: Duration = Duration::from_millis(100);
/// How often it is looked whether objects look different that nobody has written.
const REPAINT: Duration = Duration::from_secs(1);
/// Watches are closed when the storage has been silent for so long.
const SILENCE: Duration = Duration::from_secs(10);

/// What happened to an object, as a watcher sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It is there, or is selected now.
    Added,
    /// It is another.
    Modified,
    /// It is gone, or is not selected any more.
    Deleted,
}

impl Seen {
    /// As clients read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// In which form a watcher wants its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Of the object.
    pub shape: Shape,
    /// What table rows carry.
    pub include: Include,
}

impl Form {
    /// A line of a watch. `head`: a table names its columns.
    pub fn line(
        self,
        registration: &Registration,
        seen: Seen,
        object: &Value,
        head: bool,
    ) -> Bytes {
        let shaped = match self.shape {
            Shape::Object | Shape::Discovery => {
                return line(seen.as_str(), object);
            }
            Shape::Table => {
                let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                table::table(registration, [object], metadata, self.include, head)
            }
            Shape::Metadata => Reply {
                registration,
                wanted: Wanted {
                    shape: self.shape,
                    format: Format::Json,
                    of_list: false,
                },
                include: self.include,
            }
            .shape(object.clone()),
        };
        line(seen.as_str(), &shaped)
    }
}

/// A line of a watch.
pub fn line(kind: &str, object: &Value) -> Bytes {
    format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n").into()
}

/// A change, and what it looks like to watchers.
pub struct Event {
    /// The change.
    pub change: ObjectChange,
    lines: Mutex<Vec<(Seen, Form, Bytes)>>,
}

impl Event {
    /// Of a change; encoded when somebody wants it.
    pub fn new(change: ObjectChange) -> Self {
        let lines = Mutex::default();
        Self { change, lines }
    }

    /// The object that a watcher is shown.
    pub fn object(&self, seen: Seen) -> Option<&Value> {
        match seen {
            Seen::Added | Seen::Modified => self.change.after.as_ref(),
            Seen::Deleted => self.change.before.as_ref(),
        }
    }

    /// Whether it is of a namespace; of none, every one is.
    pub fn is_in(&self, namespace: Option<&str>) -> bool {
        let Some(namespace) = namespace else {
            return true;
        };
        let images = [&self.change.after, &self.change.before];
        let object = images.into_iter().flatten().next();
        let found = object.and_then(|o| o.get("metadata")?.get("namespace")?.as_str());
        found == Some(namespace)
    }

    fn lines(&self) -> MutexGuard<'_, Vec<(Seen, Form, Bytes)>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its line in a form, made once.
    pub fn line(&self, registration: &Registration, seen: Seen, form: Form) -> Option<Bytes> {
        let mut lines = self.lines();
        if let Some((.., line)) = lines.iter().find(|(s, f, _)| *s == seen && *f == form) {
            return Some(line.clone());
        }
        let line = form.line(registration, seen, self.object(seen)?, false);
        lines.push((seen, form, line.clone()));
        Some(line)
    }

    /// About how many bytes it takes, its usual encoding included.
    fn weight(&self) -> usize {
        let images = [&self.change.before, &self.change.after];
        2 * images.into_iter().flatten().map(weight).sum::<usize>()
    }
}

fn weight(value: &Value) -> usize {
    let inner = match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(weight).sum(),
        Value::Object(fields) => fields.iter().map(|(k, v)| k.len() + 16 + weight(v)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    };
    size_of::<Value>() + inner
}

/// How far the fan-out is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Nothing is missing up to here.
    pub upto: ResourceVersion,
    /// How often objects began to look different without having been written.
    pub paints: u64,
    /// How often the storage was silent for so long that watches had to end.
    pub silences: u64,
}

#[derive(Default)]
struct Ring {
    events: VecDeque<(Arc<Event>, usize)>,
    bytes: usize,
    /// Everything after this is kept, while the task runs.
    from: Option<ResourceVersion>,
    /// What objects are shown by, and when each part of it last changed, by number.
    backdrop: Option<Backdrop>,
    painted: BTreeMap<String, u64>,
    running: bool,
    watchers: usize,
    /// When the last one left.
    left: Option<Instant>,
}

impl Ring {
    fn clear(&mut self, from: Option<ResourceVersion>) {
        self.events.clear();
        self.bytes = 0;
        self.from = from;
    }

    /// Takes over a backdrop; whether objects look different now. What is kept is of their old look then.
    fn paint(&mut self, now: Option<Backdrop>, number: u64, upto: ResourceVersion) -> bool {
        let Some(now) = now else { return false };
        let Some(before) = self.backdrop.replace(now.clone()) else {
            return false;
        };
        let state = |of: &Backdrop, part: &String| of.get(part).map(|(fine, _)| *fine);
        let parts = before.keys().chain(now.keys());
        let changed: Vec<_> = parts
            .filter(|part| state(&before, part) != state(&now, part))
            .collect();
        if changed.is_empty() {
            return false;
        }
        self.painted.retain(|part, _| now.contains_key(part));
        self.painted
            .extend(changed.into_iter().map(|part| (part.clone(), number)));
        self.clear(Some(upto));
        true
    }

    fn keep(&mut self, changes: Vec<ObjectChange>) {
        for change in changes {
            let event = Event::new(change);
            let weight = event.weight();
            self.bytes += weight;
            self.events.push_back((Arc::new(event), weight));
        }
        while self.events.len() > KEPT || self.bytes > KEPT_BYTES {
            let Some((oldest, weight)) = self.events.pop_front() else {
                return;
            };
            self.bytes -= weight;
            self.from = Some(oldest.change.version);
        }
    }
}

struct Shared {
    ring: Mutex<Ring>,
    history: History,
    progress: watch::Sender<Progress>,
}

impl Shared {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets all events: who goes on asks the storage.
    fn forget(&self) {
        self.history.clear();
        self.ring().clear(None);
    }
}

/// What a fan-out is at, for logs and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Those who watch.
    pub watchers: usize,
    /// Events kept.
    pub events: usize,
    /// About how many bytes they take.
    pub bytes: usize,
    /// Encodings of them that were made, each for all who watch in its form.
    pub lines: usize,
    /// How often the log was read for those whom the fan-out did not reach.
    pub reads: u64,
}

/// The fan-out of a kind.
pub struct Fanout {
    storage: Arc<dyn Storage>,
    shared: Arc<Shared>,
}

/// Somebody who watches, until dropped.
pub struct Watcher {
    shared: Arc<Shared>,
    /// How far the fan-out is; changes wake the watcher.
    pub progress: watch::Receiver<Progress>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let mut ring = self.shared.ring();
        ring.watchers -= 1;
        ring.left = Some(Instant::now());
    }
}

/// What a watcher is given.
pub enum Next {
    /// Events, and up to where there are no others.
    Events(Vec<Arc<Event>>, ResourceVersion),
    /// Nothing: the watcher is where the fan-out does not reach. It reads the storage's log.
    Behind,
}

impl Fanout {
    /// Of a storage. Nothing runs yet.
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        let shared = Arc::new(Shared {
            ring: Mutex::default(),
            history: History::default(),
            progress: watch::Sender::default(),
        });
        Self { storage, shared }
    }

    /// Somebody watches.
    pub fn join(&self) -> Watcher {
        let mut ring = self.shared.ring();
        ring.watchers += 1;
        if !ring.running {
            ring.running = true;
            ring.backdrop = self.storage.backdrop();
            tokio::spawn(follow(self.storage.clone(), self.shared.clone()));
        }
        drop(ring);
        Watcher {
            progress: self.shared.progress.subscribe(),
            shared: self.shared.clone(),
        }
    }

    /// Whether a watch from a version certainly misses nothing.
    pub fn reaches(&self, after: ResourceVersion) -> bool {
        let ring = self.shared.ring();
        ring.from.is_some_and(|from| after >= from) && after <= self.shared.progress.borrow().upto
    }

    /// A piece of the storage's log that goes on from a version, for a watch that the fan-out does not reach.
    ///
    /// # Errors
    /// As [`Storage::changes`].
    pub async fn history(&self, after: ResourceVersion) -> Result<Arc<Piece>, StorageError> {
        self.shared.history.after(&*self.storage, after).await
    }

    /// What it is at.
    pub fn stats(&self) -> Stats {
        let ring = self.shared.ring();
        Stats {
            watchers: ring.watchers,
            events: ring.events.len(),
            bytes: ring.bytes,
            lines: ring.events.iter().map(|(e, _)| e.lines().len()).sum(),
            reads: self.shared.history.reads(),
        }
    }
}

impl Watcher {
    /// The parts of the backdrop that changed since a number of paints.
    pub fn painted(&self, since: u64) -> HashSet<String> {
        let ring = self.shared.ring();
        let newer = ring.painted.iter().filter(|(_, number)| **number > since);
        newer.map(|(part, _)| part.clone()).collect()
    }

    /// What comes after a version, of a namespace where one is named: what others do there costs a watcher next to nothing.
    pub fn next(&self, after: ResourceVersion, namespace: Option<&str>) -> Next {
        let ring = self.shared.ring();
        if ring.from.is_none_or(|from| after < from) {
            return Next::Behind;
        }
        let start = ring
            .events
            .partition_point(|(e, _)| e.change.version <= after);
        let newer = ring.events.range(start..).map(|(e, _)| e);
        let events: Vec<_> = newer
            .filter(|e| e.is_in(namespace))
            .take(BATCH)
            .cloned()
            .collect();
        let upto = match events.last() {
            Some(last) if events.len() == BATCH => last.change.version,
            _ => self.shared.progress.borrow().upto.max(after),
        };
        Next::Events(events, upto)
    }
}

/// Follows the storage while somebody watches.
async fn follow(storage: Arc<dyn Storage>, shared: Arc<Shared>) {
    let (mut at, mut heard) = (None, Instant::now());
    let mut painted = Instant::now();
    while !stop_if_idle(&shared) {
        if let Some(at) = at.filter(|_| painted.elapsed() >= REPAINT) {
            painted = Instant::now();
            repaint(&*storage, &shared, at);
        }
        match step(&*storage, &shared, at).await {
            Ok(upto) => {
                at = Some(upto);
                heard = Instant::now();
            }
            Err(StorageError::Expired(_)) => {
                // Whoever is behind learns it from the storage.
                at = None;
                shared.forget();
            }
            // Once it runs, the storage itself says only after a while that its log is silent.
            Err(error) if at.is_some() || heard.elapsed() > SILENCE => {
                tracing::warn!(%error, "the change log is silent, watches are closed");
                shared.forget();
                shared.progress.send_modify(|p| p.silences += 1);
                (at, heard) = (None, Instant::now());
                tokio::time::sleep(RETRY).await;
            }
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

async fn step(
    storage: &dyn Storage,
    shared: &Shared,
    at: Option<ResourceVersion>,
) -> Result<ResourceVersion, StorageError> {
    let Some(at) = at else {
        let start = storage.version().await?;
        shared.ring().clear(Some(start));
        shared.progress.send_modify(|p| p.upto = start);
        return Ok(start);
    };
    let changes = storage.changes(at, WAIT).await?;
    let count = changes.items.len();
    let mut ring = shared.ring();
    ring.keep(changes.items);
    // Within the lock: who looks sees events and mark of the same moment.
    if changes.upto > at {
        shared.progress.send_modify(|p| p.upto = changes.upto);
    }
    tracing::trace!(
        watchers = ring.watchers,
        events = ring.events.len(),
        bytes = ring.bytes,
        count,
        lag_ms = lag(changes.upto),
        "changes fanned out"
    );
    Ok(changes.upto.max(at))
}

/// Looks whether objects look different that nobody has written.
fn repaint(storage: &dyn Storage, shared: &Shared, upto: ResourceVersion) {
    let now = storage.backdrop();
    let number = shared.progress.borrow().paints + 1;
    if shared.ring().paint(now, number, upto) {
        shared.history.clear();
        shared.progress.send_modify(|p| p.paints = number);
    }
}

/// How long ago a version was written, in milliseconds.
fn lag(version: ResourceVersion) -> u64 {
    Timestamp::now().0.saturating_sub(written(version).0)
}

/// When a version was written, by the store's clock.
pub fn written(version: ResourceVersion) -> Timestamp {
    Timestamp((version.tick() >> ResourceVersion::COUNTER_BITS) + ResourceVersion::ORIGIN_MS)
}

fn stop_if_idle(shared: &Shared) -> bool {
    let mut ring = shared.ring();
    let idle = ring.watchers == 0 && ring.left.is_none_or(|left| left.elapsed() > IDLE);
    if idle {
        ring.running = false;
        ring.clear(None);
        shared.history.clear();
    }
    idle
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(version: u64, size: usize) -> ObjectChange {
        ObjectChange {
            version: ResourceVersion(version),
            before: None,
            after: Some(json!({"metadata": {"name": "a"}, "data": "x".repeat(size)})),
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut ring = Ring::default();
        ring.clear(Some(ResourceVersion(0)));
        ring.keep((1..=KEPT as u64 + 10).map(|v| change(v, 1)).collect());
        assert_eq!(ring.events.len(), KEPT);
        assert_eq!(ring.from, Some(ResourceVersion(10)));
        ring.keep((5000..5100).map(|v| change(v, 1 << 20)).collect());
        assert!(ring.bytes <= KEPT_BYTES);
        assert!(
            (10..17).contains(&ring.events.len()),
            "{}",
            ring.events.len()
        );
    }

    #[test]
    fn a_line_is_made_once() {
        let storage = Arc::new(super::super::storage::NamespaceStorage::new(vec![]));
        let kind = super::super::kinds::namespaces(vec![storage]).unwrap();
        let event = Event::new(change(5, 1));
        let form = Form {
            shape: Shape::Object,
            include: Include::Metadata,
        };
        let first = event.line(&kind, Seen::Added, form).unwrap();
        let second = event.line(&kind, Seen::Added, form).unwrap();
        assert_eq!(first.as_ptr(), second.as_ptr());
        let parsed: Value = serde_json::from_slice(&first).unwrap();
        assert_eq!(parsed["type"], "ADDED");
        assert_eq!(parsed["object"]["metadata"]["name"], "a");
        assert!(event.line(&kind, Seen::Deleted, form).is_none());
        let table = Form {
            shape: Shape::Table,
            ..form
        };
        assert_ne!(event.line(&kind, Seen::Added, table).unwrap(), first);
    }
}
