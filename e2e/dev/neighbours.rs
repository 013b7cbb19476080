//! Actors beside one another: names that begin alike, and sandboxes that are killed at any moment.

use super::harness::{Dev, counters, eventually, kill};
use rand::seq::IndexedRandom;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

#[test]
fn nothing_that_is_done_to_an_actor_meets_those_whose_names_begin_alike() {
    let dev = Dev::start(&["--operation-lease", "2"]);
    dev.with_counter(4);
    let others = ["aa", "a-b", "a0"];
    dev.actor("a", "counter");
    assert_eq!(dev.visit("a"), (1, 1));
    for name in others {
        dev.actor(name, "counter");
        assert_eq!(dev.visit(name), (1, 1));
        dev.plugin(&["suspend", name]);
        assert_eq!(dev.visit(name), (2, 2));
    }
    dev.plugin(&["suspend", "a"]);
    dev.plugin(&["boot", "a"]);
    dev.plugin(&["pause", "a"]);
    dev.kubectl(&["delete", "actor", "a"]);
    for name in others {
        assert_eq!(dev.visit(name), (3, 3), "{name} ran on");
        dev.plugin(&["suspend", name]);
    }
    dev.actor("a", "counter");
    assert_eq!(dev.visit("a"), (1, 1), "nothing of the one before is left");
    dev.kubectl(&["delete", "actor", "a"]);
    for name in others {
        assert_eq!(dev.visit(name), (4, 4), "{name} has its snapshot");
    }
    // The other way round: those with the longer names go.
    dev.actor("a", "counter");
    dev.plugin(&["suspend", "a0"]);
    assert_eq!(dev.visit("a"), (1, 1));
    for name in others {
        dev.kubectl(&["delete", "actor", name]);
    }
    assert_eq!(dev.visit("a"), (2, 2));
}

/// Actors of the load, on half as many workers.
const ACTORS: [&str; 6] = ["a", "aa", "aaa", "b", "ba", "bab"];
/// So many sandboxes are killed.
const KILLS: usize = 25;

/// Wakes, visits and suspends until `over`; says how often it went back.
fn live(dev: &Dev, actor: &str, served: &AtomicUsize, over: &AtomicBool) -> usize {
    let (mut last, mut durable) = (0, 0);
    let mut back = 0;
    while !over.load(SeqCst) {
        let Ok((200, body)) = dev.try_get(actor, "/") else {
            continue;
        };
        let (memory, file) = counters(&body);
        assert_eq!(memory, file, "{actor}: memory and files are of one moment");
        // A visit that was not answered may have counted.
        if memory <= last {
            assert!(
                memory > durable,
                "{actor}: {durable} was acknowledged, now {memory}"
            );
            let loss = ".status.conditions[?(@.type==\"RolledBack\")].status";
            assert_eq!(
                dev.field(actor, loss),
                "True",
                "{actor}: {last} to {memory}"
            );
            back += 1;
        }
        last = memory;
        served.fetch_add(1, SeqCst);
        if dev.try_plugin(&["suspend", actor]).is_ok() {
            durable = memory;
        }
    }
    back
}

#[test]
fn sandboxes_that_are_killed_at_any_moment_cost_what_was_not_suspended_and_nothing_else() {
    let dev = Dev::start(&["--operation-lease", "2"]);
    dev.with_counter(ACTORS.len() / 2);
    ACTORS
        .iter()
        .for_each(|actor| drop(dev.actor(actor, "counter")));
    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (mut killed, mut before) = (0, 0);
    let backs = std::thread::scope(|threads| {
        let live = |actor| {
            let (dev, served, over) = (&dev, &served, &over);
            threads.spawn(move || live(dev, actor, served, over))
        };
        let lives = ACTORS.map(live);
        eventually("enough are killed", || {
            // A sandbox or its gofer, in whatever it is about; between two kills somebody is served.
            let there = dev.processes("runsc-");
            if let Some(pid) = there
                .choose(&mut rand::rng())
                .filter(|_| served.load(SeqCst) > before)
            {
                kill(*pid);
                (killed, before) = (killed + 1, served.load(SeqCst));
            }
            (killed == KILLS).then_some(())
        });
        over.store(true, SeqCst);
        lives.map(|life| life.join().unwrap())
    });
    println!("{} served, went back: {backs:?}", served.load(SeqCst));
    for actor in ACTORS {
        let (memory, file) = dev.served(actor);
        assert_eq!(memory, file);
        let slept = eventually("suspend", || dev.try_plugin(&["suspend", actor]).ok());
        assert!(slept.contains("suspended"), "{slept}");
    }
    eventually("all workers are free", || {
        let path = "jsonpath={.items[*].status.phase}";
        let phases = dev.try_kubectl(&["get", "workers", "-o", path]).ok()?;
        (phases == "Free Free Free").then_some(())
    });
}
