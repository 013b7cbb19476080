//! Who uses which cluster when. There are two, each started when it is first needed. Tests that go side by side share the
//! first one; a test that stops or changes what all use has a cluster alone: the second, or the first when nobody wants to
//! share it any more.

use super::harness::Cluster;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

/// So many tests share a cluster at a time.
const AT_ONCE: usize = 4;

static CLUSTERS: [OnceLock<Cluster>; 2] = [const { OnceLock::new() }; 2];
static TURNS: Mutex<Turns> = Mutex::new(Turns {
    waiting: 0,
    long_waiting: 0,
    sharing: 0,
    long: 0,
    alone: [false; 2],
});
static ENDED: Condvar = Condvar::new();

/// What is used now.
struct Turns {
    /// Tests that wait to share the first cluster.
    waiting: usize,
    /// Long ones among them.
    long_waiting: usize,
    /// Tests that share it.
    sharing: usize,
    /// Long tests that wait to have a cluster alone.
    long: usize,
    /// Which cluster somebody has alone.
    alone: [bool; 2],
}

impl Turns {
    fn is_full(&self) -> bool {
        self.alone[0] || self.sharing == AT_ONCE
    }

    fn free(&self) -> Option<usize> {
        match self.alone {
            [_, false] => Some(1),
            [false, true] if self.waiting + self.sharing == 0 => Some(0),
            _ => None,
        }
    }
}

fn turns() -> MutexGuard<'static, Turns> {
    TURNS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait_while(
    turns: MutexGuard<'static, Turns>,
    condition: impl FnMut(&mut Turns) -> bool,
) -> MutexGuard<'static, Turns> {
    let waited = ENDED.wait_while(turns, condition);
    waited.unwrap_or_else(PoisonError::into_inner)
}

/// A turn; it is over when this is dropped.
pub struct Turn {
    cluster: usize,
    alone: bool,
}

impl Turn {
    /// Beside other tests.
    pub fn shared() -> Turn {
        let mut turns = turns();
        turns.waiting += 1;
        Turn::beside(wait_while(turns, |t| t.long_waiting > 0 || t.is_full()))
    }

    /// Beside other tests, and before others that want that: for tests that are long, so that nobody waits for them at the end.
    pub fn shared_first() -> Turn {
        let mut turns = turns();
        turns.waiting += 1;
        turns.long_waiting += 1;
        let mut turns = wait_while(turns, |t| t.is_full());
        turns.long_waiting -= 1;
        let turn = Turn::beside(turns);
        ENDED.notify_all();
        turn
    }

    fn beside(mut turns: MutexGuard<'static, Turns>) -> Turn {
        turns.waiting -= 1;
        turns.sharing += 1;
        Turn {
            cluster: 0,
            alone: false,
        }
    }

    /// With nobody else.
    pub fn alone() -> Turn {
        Turn::free(wait_while(turns(), |t| t.long > 0 || t.free().is_none()))
    }

    /// The same for a cluster alone.
    pub fn alone_first() -> Turn {
        let mut turns = turns();
        turns.long += 1;
        let mut turns = wait_while(turns, |t| t.free().is_none());
        turns.long -= 1;
        let turn = Turn::free(turns);
        ENDED.notify_all();
        turn
    }

    fn free(mut turns: MutexGuard<'static, Turns>) -> Turn {
        let cluster = turns.free().unwrap();
        turns.alone[cluster] = true;
        Turn {
            cluster,
            alone: true,
        }
    }

    /// Where.
    pub fn cluster(&self) -> &'static Cluster {
        CLUSTERS[self.cluster].get_or_init(Cluster::start)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut turns = turns();
        match self.alone {
            true => turns.alone[self.cluster] = false,
            false => turns.sharing -= 1,
        }
        drop(turns);
        ENDED.notify_all();
    }
}
