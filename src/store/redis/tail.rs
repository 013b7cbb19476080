//! The newest part of each shard's log, kept between the pages of lists: what was written since a list began is read once
//! per process, not once per page.
//!
//! A page reads what the process does not know yet along with the state. Bounded in bytes; a list whose part of the log
//! is larger has it looked through by the server, page by page.

use super::client::{Call, Client};
use super::reply::{self, Past};
use super::scripts;
use super::undo::{First, PIECES, Scope, Undo};
use crate::store::StoreError;
use ::redis::Value;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// What all shards' entries may take together.
const KEPT_BYTES: usize = 16 << 20;
/// What an entry takes beside its bytes.
const OVERHEAD: usize = 128;
/// A list that asks for no page for so long is given up: its part of the log is not kept for it any more.
const GIVEN_UP: Duration = Duration::from_secs(30);

/// What an entry says of the time before it.
struct Entry {
    tick: u64,
    name: Vec<u8>,
    /// Empty: it did not exist.
    record: Vec<u8>,
    meta: Vec<u8>,
    /// Whether it is there afterwards.
    exists: bool,
}

impl Entry {
    fn weight(&self) -> usize {
        OVERHEAD + self.name.len() + self.record.len() + self.meta.len()
    }
}

/// What a page reads of a shard's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Everything from a stamp on.
    From(u64),
    /// Nothing: it is too much to be kept.
    Nothing,
}

impl Plan {
    /// The first stamp that is read.
    pub fn start(self) -> u64 {
        match self {
            Self::From(start) => start,
            Self::Nothing => u64::MAX >> 1,
        }
    }
}

/// One shard's.
#[derive(Default)]
struct Tail {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// All entries from here to before `next` are kept.
    from: u64,
    next: u64,
    /// Entries were dropped to stay within the bound.
    cut: bool,
    /// When a list last went on with it.
    used: Option<Instant>,
}

impl Tail {
    fn plan(&mut self, first: u64, goes_on: bool) -> Plan {
        let fresh = self.used.is_some_and(|used| used.elapsed() < GIVEN_UP);
        if goes_on {
            self.used = Some(Instant::now());
        }
        if !fresh && self.from != first {
            self.restart(first);
        }
        match () {
            () if first < self.from && self.cut => Plan::Nothing,
            () if first < self.from => Plan::From(first),
            () if first <= self.next || goes_on => Plan::From(self.next),
            // A list that may have only this page need not read what others left unread.
            () => Plan::From(first),
        }
    }

    /// Keeps nothing but what will be read from a stamp on.
    fn restart(&mut self, from: u64) {
        *self = Self {
            used: self.used,
            from,
            next: from,
            ..Self::default()
        };
    }

    /// Takes over what was read from `start` to before `next`; gives it back if it does not join.
    fn keep(
        &mut self,
        start: u64,
        next: u64,
        found: Vec<Entry>,
        bound: usize,
    ) -> Option<Vec<Entry>> {
        if start > self.next {
            return Some(found);
        }
        if start < self.from {
            self.restart(start);
        }
        let known = self.next;
        let newer = found.into_iter().filter(|e| e.tick >= known);
        for entry in newer {
            self.bytes += entry.weight();
            self.entries.push_back(entry);
        }
        self.next = known.max(next);
        while self.bytes > bound {
            let Some(oldest) = self.entries.pop_front() else {
                break;
            };
            self.bytes -= oldest.weight();
            self.from = oldest.tick + 1;
            self.cut = true;
        }
        None
    }

    fn reaches(&self, first: u64, last: u64) -> bool {
        self.from <= first && last < self.next
    }
}

/// What entries say of a scope up to a stamp, of names up to `upto` (empty: no end).
fn undone<'a>(
    entries: impl IntoIterator<Item = &'a Entry>,
    scope: &Scope<'_>,
    last: u64,
    upto: &[u8],
) -> Undo {
    let mut undo = Undo::default();
    let first = scope.first();
    let of_scope = |e: &&Entry| {
        (first..=last).contains(&e.tick)
            && e.name.starts_with(scope.prefix)
            && (scope.after.is_empty() || *e.name > *scope.after)
    };
    for entry in entries.into_iter().filter(of_scope) {
        undo.existed += u64::from(!entry.record.is_empty());
        undo.exist += u64::from(entry.exists);
        let of_page = upto.is_empty() || *entry.name <= *upto;
        if of_page && !undo.first.contains_key(&entry.name) {
            let before = First {
                record: entry.record.clone(),
                meta: entry.meta.clone(),
            };
            undo.first.insert(entry.name.clone(), before);
        }
    }
    undo
}

/// A piece of a log: what `tail` in `lua/tail.lua` found.
struct Piece {
    gone: Past,
    more: Option<u64>,
    entries: Vec<Entry>,
}

impl Piece {
    fn of(value: Value) -> Result<Self, StoreError> {
        let strange = || StoreError::Corrupt {
            what: "the store's reply".to_owned(),
            why: "the newest part of the log has another form".to_owned(),
        };
        let [gone, more, found] =
            <[Value; 3]>::try_from(reply::array(value)?).map_err(|_| strange())?;
        let mut values = reply::array(found)?.into_iter();
        let mut entries = Vec::with_capacity(values.len() / 5);
        while let (Some(tick), Some(name), Some(exists), Some(record), Some(meta)) = (
            values.next(),
            values.next(),
            values.next(),
            values.next(),
            values.next(),
        ) {
            entries.push(Entry {
                tick: reply::text(tick)?.parse().map_err(|_| strange())?,
                name: reply::bytes(name)?,
                record: reply::bytes(record)?,
                meta: reply::bytes(meta)?,
                exists: reply::number(exists)? > 0,
            });
        }
        Ok(Self {
            gone: Past::of(gone)?,
            more: Some(reply::number(more)?).filter(|more| *more > 0),
            entries,
        })
    }
}

/// Those of all shards.
pub struct Tails {
    shards: Vec<Mutex<Tail>>,
    /// Entries that lists read from logs so far.
    read: AtomicU64,
}

impl Tails {
    /// Nothing is kept yet.
    pub fn new(shards: u16) -> Self {
        Self {
            shards: (0..shards).map(|_| Mutex::default()).collect(),
            read: AtomicU64::new(0),
        }
    }

    /// Entries that lists read from logs so far.
    #[cfg(test)]
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    fn tail(&self, shard: u16) -> MutexGuard<'_, Tail> {
        let tail = self.shards[usize::from(shard)].lock();
        tail.unwrap_or_else(PoisonError::into_inner)
    }

    /// What a page must read of a shard that undoes everything from `first` on; `goes_on`: others of its list were before.
    pub fn plan(&self, shard: u16, first: u64, goes_on: bool) -> Plan {
        self.tail(shard).plan(first, goes_on)
    }

    /// What is to be undone in a page: `found` is what was read by its plan, `last` the stamp of the state, `upto` the
    /// page's last name (empty: no end).
    pub async fn undo(
        &self,
        client: &Client,
        scope: &Scope<'_>,
        plan: Plan,
        found: Value,
        last: u64,
        upto: &[u8],
    ) -> Result<Undo, StoreError> {
        let Plan::From(start) = plan else {
            return Undo::read(client, scope, last, upto).await;
        };
        let (first, shard) = (scope.first(), scope.shard);
        let read = self.rest(client, scope, Piece::of(found)?, last).await?;
        read.gone.reaches(first, scope.at)?;
        {
            let mut tail = self.tail(shard);
            if start <= read.gone.upto {
                // What lies between was trimmed: what is kept does not join what is read.
                tail.restart(first);
            } else {
                let bound = KEPT_BYTES / self.shards.len().max(1);
                let rest = tail.keep(start, read.next, read.entries, bound);
                if tail.reaches(first, last) {
                    return Ok(undone(&tail.entries, scope, last, upto));
                }
                if let Some(rest) = rest.filter(|_| start <= first) {
                    return Ok(undone(&rest, scope, last, upto));
                }
            }
        }
        Undo::read(client, scope, last, upto).await
    }

    /// Goes on after a piece that was read with the state, at least up to the state's stamp unless the log is too long.
    async fn rest(
        &self,
        client: &Client,
        scope: &Scope<'_>,
        mut piece: Piece,
        last: u64,
    ) -> Result<Read, StoreError> {
        let mut read = Read {
            gone: Past::NONE,
            next: last + 1,
            entries: vec![],
        };
        for _ in 0..PIECES {
            self.read
                .fetch_add(piece.entries.len() as u64, Ordering::Relaxed);
            if piece.gone.upto > read.gone.upto {
                read.gone = piece.gone;
            }
            read.entries.append(&mut piece.entries);
            let Some(more) = piece.more else { break };
            read.next = more;
            if more > last {
                break;
            }
            let call = Call::new(client, &scripts::LOG_TAIL, scope.shard)
                .number(more)
                .number(scope.first());
            let reply = client.call(call.repeatable()).await?;
            let mut reply = reply.ok(&"the change log")?;
            read.next = reply.last + 1;
            piece = Piece::of(reply.next()?)?;
        }
        Ok(read)
    }
}

/// What was read of a log.
struct Read {
    /// How far it was trimmed or lost.
    gone: Past,
    /// The first stamp that was not looked at.
    next: u64,
    entries: Vec<Entry>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::names::ResourceVersion;

    fn entries(ticks: impl IntoIterator<Item = u64>) -> Vec<Entry> {
        let entry = |tick: u64| Entry {
            tick,
            name: format!("ns\0n{}", tick % 3).into_bytes(),
            record: if tick < 3 { vec![] } else { vec![1] },
            meta: vec![],
            exists: true,
        };
        ticks.into_iter().map(entry).collect()
    }

    #[test]
    fn pages_read_only_what_is_new() {
        let mut tail = Tail::default();
        assert_eq!(tail.plan(10, false), Plan::From(10));
        assert!(tail.keep(10, 15, entries(10..15), 1 << 20).is_none());
        assert_eq!(tail.plan(10, true), Plan::From(15));
        // Another list begins later: its only page reads nothing of the first one's, its second what lies between.
        assert_eq!(tail.plan(20, false), Plan::From(20));
        assert!(tail.keep(20, 21, entries(20..21), 1 << 20).is_some());
        assert_eq!(tail.plan(20, true), Plan::From(15));
        assert!(tail.keep(15, 30, entries(15..30), 1 << 20).is_none());
        assert!(tail.reaches(10, 29) && !tail.reaches(10, 30) && !tail.reaches(9, 29));
        // An older list, of another replica's: its part is read from its beginning.
        assert_eq!(tail.plan(5, true), Plan::From(5));
        assert!(tail.keep(5, 30, entries(5..30), 1 << 20).is_none());
        assert_eq!(tail.entries.len(), 25);
    }

    #[test]
    fn what_is_too_much_is_left_to_the_server() {
        let mut tail = Tail::default();
        tail.plan(1, true);
        tail.keep(1, 100, entries(1..100), 10 * (OVERHEAD + 6));
        assert!(tail.entries.len() <= 10 && tail.bytes <= 10 * (OVERHEAD + 6));
        assert_eq!(tail.plan(1, true), Plan::Nothing);
        assert_eq!(tail.plan(99, true), Plan::From(100));
    }

    #[test]
    fn the_first_entry_of_a_name_decides() {
        let scope = Scope {
            kind: "a",
            at: ResourceVersion::from_tick(0, 0),
            shard: 0,
            log: None,
            prefix: b"ns\0",
            after: b"ns\0n0",
        };
        let all = entries(1..10);
        let undo = undone(&all, &scope, 8, b"ns\0n1");
        // Of n1 (1, 4, 7) the first created it; n2 (2, 5, 8) is only counted.
        assert_eq!(undo.first.keys().collect::<Vec<_>>(), [b"ns\0n1"]);
        assert!(undo.first[&b"ns\0n1"[..]].record.is_empty());
        assert_eq!((undo.existed, undo.exist), (4, 6));
    }
}
