//! A simulation of everything around the engine: the real [`Engine`](super::Engine), several replicas of it, on the
//! store in memory and on nodes that lose, delay and repeat orders, die, and come back. Time is tokio's paused clock, so
//! that minutes pass in milliseconds; one seed is one schedule.
//!
//! [`world`] is what is true: slots, snapshots, what actors did. [`node`] carries out orders as a node agent must,
//! [`calls`] is the faulty way to it, [`store`] the mortal way to the store, [`audit`] says when an invariant of the
//! design is broken, [`schedule`] is what happens in which order. `ATE_SIM_SEED=N` replays one schedule.

mod audit;
mod calls;
mod draining;
mod guards;
mod images;
mod kit;
mod losses;
mod node;
mod recovery;
mod round_trips;
mod runtimes;
mod schedule;
mod spool;
mod store;
mod tally;
mod waiting;
mod world;

use schedule::{Failure, run};
use tally::Tally;
use world::Guards;

/// Schedules that a full run walks.
const SEEDS: u64 = 10_000;

/// Walks a share of the schedules; several tests share them, so that they use several processors.
fn walk(share: u64, of: u64) {
    if let Ok(seed) = std::env::var("ATE_SIM_SEED") {
        let seed: u64 = seed.parse().expect("ATE_SIM_SEED is a number");
        if seed % of == share {
            println!("{}", run(seed, Guards::default()).unwrap_or_else(stop));
        }
        return;
    }
    let mut tally = Tally::default();
    for seed in (0..SEEDS).filter(|seed| seed % of == share) {
        tally += run(seed, Guards::default()).unwrap_or_else(stop);
    }
    println!("{tally}");
    tally.assert_varied();
}

fn stop(failure: Failure) -> Tally {
    panic!("{failure}")
}

#[test]
fn no_schedule_breaks_an_invariant_0() {
    walk(0, 4);
}

#[test]
fn no_schedule_breaks_an_invariant_1() {
    walk(1, 4);
}

#[test]
fn no_schedule_breaks_an_invariant_2() {
    walk(2, 4);
}

#[test]
fn no_schedule_breaks_an_invariant_3() {
    walk(3, 4);
}
