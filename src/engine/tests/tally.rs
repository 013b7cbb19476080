//! What happened in schedules.

use std::fmt;

/// What happened, so that a walk that tests nothing is noticed.
#[derive(Default)]
pub struct Tally {
    pub delivered: u64,
    pub rolled_back: u64,
    pub orders: u64,
    pub crashes: u64,
    pub rollouts: u64,
    pub misfits: u64,
    pub cut_short: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.delivered += other.delivered;
        self.rolled_back += other.rolled_back;
        self.orders += other.orders;
        self.crashes += other.crashes;
        self.rollouts += other.rollouts;
        self.misfits += other.misfits;
        self.cut_short += other.cut_short;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally {
            delivered,
            rolled_back,
            orders,
            crashes,
            rollouts,
            misfits,
            cut_short,
        } = self;
        write!(
            f,
            "{delivered} requests answered, {rolled_back} actors rolled back, {orders} orders, {crashes} crashes, \
             {rollouts} nodes with another runtime, {misfits} snapshots on one of those, \
             {cut_short} suspends cut short"
        )
    }
}

impl Tally {
    /// Every kind of thing has happened.
    pub fn assert_varied(&self) {
        let Tally {
            delivered,
            rolled_back,
            orders,
            crashes,
            rollouts,
            misfits,
            cut_short,
        } = self;
        assert!(
            [delivered, rolled_back, orders, crashes, rollouts, cut_short]
                .iter()
                .all(|n| **n > 100),
            "{self}"
        );
        // Only in the moment before a node has told of it.
        assert!(*misfits < rollouts / 20, "{self}");
    }
}
